"""Read the manifest's bytes, and check them against their checksum and signature.

The manifest contains the SHA-256 of every other file, so its Ed25519 signature covers
the whole bundle.
"""

import hashlib
import os
from pathlib import Path
from typing import Any

from .files import BundleFiles

__all__ = ["check_signature", "checksum", "read_manifest", "sign"]

MANIFEST = "manifest.json"
CHECKSUM = "manifest.sha256"
SIGNATURE = "manifest.sig"
#: Files that the manifest does not list.
UNLISTED = frozenset({MANIFEST, CHECKSUM, SIGNATURE})
#: Prefix of the signed bytes, so that signatures made for other purposes do not count.
PREFIX = b"keras_micronets bundle manifest, signature 1\0"
MAX_BYTES = 2**20
MAX_KEY_BYTES = 2**16
_MAX_LINE = 2**10


def read_manifest(
    files: BundleFiles, *, public_key: str | os.PathLike | bytes | None = None
) -> bytes:
    """Return the bytes of a bundle's manifest, checked before they are parsed.

    Without a `public_key` the checksum is checked, and a signature is ignored.

    Raises:
        ValueError: If the manifest or its checksum is missing, too large or
            modified, or the signature is not by that key.
    """
    data = files.read(MANIFEST, max_bytes=MAX_BYTES)
    if public_key is not None:
        check_signature(data, _read_signature(files), public_key=public_key)
    received = files.read(CHECKSUM, max_bytes=_MAX_LINE)
    if received != checksum(data):
        raise ValueError(
            f"Expected the manifest that was exported; copy or export the bundle "
            f"{files.path} again. Received: a modified {MANIFEST!r}, whose SHA-256 is "
            f"not the one in {CHECKSUM!r}."
        )
    return data


def checksum(manifest: bytes) -> bytes:
    """Return the line that `sha256sum manifest.json` prints for a manifest."""
    return f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n".encode()


def sign(manifest: bytes, *, signing_key: str | os.PathLike | bytes) -> bytes:
    """Return the signature of the bytes of a manifest, 64 bytes.

    Args:
        manifest: The bytes of `manifest.json`.
        signing_key: Path of an Ed25519 private key in PEM, not encrypted, or its
            bytes. `openssl genpkey -algorithm ed25519 -out private.pem` makes one.

    Raises:
        ValueError: If the key has another type, or `cryptography` is missing.
    """
    ed25519, load = _cryptography("Ed25519PrivateKey", "load_pem_private_key")
    key = _load(signing_key, ed25519, lambda pem: load(pem, None), "private")
    return key.sign(PREFIX + manifest)


def check_signature(
    manifest: bytes, signature: bytes, *, public_key: str | os.PathLike | bytes
) -> None:
    """Raise a `ValueError` unless the owner of a key signed a manifest.

    Args:
        manifest: The bytes of `manifest.json`.
        signature: The signature, as returned by `sign`.
        public_key: Path of an Ed25519 public key in PEM, or its bytes.
            `openssl pkey -in private.pem -pubout -out public.pem` makes it.
    """
    ed25519, load = _cryptography("Ed25519PublicKey", "load_pem_public_key")
    key = _load(public_key, ed25519, load, "public")
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, PREFIX + manifest)
    except InvalidSignature:
        raise ValueError(
            "Expected a manifest signed by the owner of the public key; do not run "
            "this bundle unless you know why it is not. Received: a signature of "
            f"{len(signature)} bytes that does not match the manifest and the key."
        ) from None


def _read_signature(files):
    try:
        return files.read(SIGNATURE, max_bytes=_MAX_LINE)
    except ValueError as error:
        raise ValueError(
            "Expected a signed bundle, since a public key was given; export it with "
            f"`signing_key=`. {error}"
        ) from None


def _cryptography(key_type, loader):
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise ValueError(
            "Expected the library cryptography, for signatures; run "
            f"`pip install cryptography`. Received: {error}."
        ) from None
    return getattr(ed25519, key_type), getattr(serialization, loader)


def _load(key: Any, key_type: Any, load: Any, name: str) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm

    source = "bytes" if isinstance(key, bytes) else os.fspath(key)
    try:
        loaded = load(key if isinstance(key, bytes) else _read(key))
        received = type(loaded).__name__
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        loaded, received = None, error
    if not isinstance(loaded, key_type):
        raise ValueError(
            f"Expected an Ed25519 {name} key in PEM, not encrypted (`openssl pkey -in "
            f"KEY -out PLAIN` removes a password). Received: {source} ({received})."
        )
    return loaded


def _read(path):
    with Path(path).open("rb") as file:
        return file.read(MAX_KEY_BYTES)
