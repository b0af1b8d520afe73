"""The bytes of `manifest.json`, and the two small files that vouch for them."""

import hashlib
import os
from pathlib import Path

from .files import BundleFiles

MANIFEST = "manifest.json"
CHECKSUM = "manifest.sha256"
SIGNATURE = "manifest.sig"
#: These no manifest lists: they are about the manifest, or are it.
UNLISTED = frozenset({MANIFEST, CHECKSUM, SIGNATURE})
MAX_BYTES = 2**20
_MAX_LINE = 2**10


def read_manifest(
    files: BundleFiles, *, public_key: str | os.PathLike | bytes | None = None
) -> bytes:
    """Return the bytes of a bundle's manifest, once they are known to be sound.

    Nothing in them is interpreted before.

    Args:
        files: The bundle.
        public_key: As for `check_signature`. Defaults to `None`: the signature, if
            there is one, is not looked at.

    Raises:
        ValueError: If the manifest or its checksum is missing, too large or
            changed, or the signature is not by that key.
    """
    data = files.read(MANIFEST, most=MAX_BYTES)
    if public_key is not None:
        check_signature(data, _signature(files), public_key=public_key)
    received = files.read(CHECKSUM, most=_MAX_LINE)
    if received != checksum(data):
        raise ValueError(
            f"Expected the manifest that was exported; copy or export the bundle "
            f"{files.path} anew. Received: a changed {MANIFEST!r}, whose SHA-256 is "
            f"not the one in {CHECKSUM!r}."
        )
    return data


def checksum(manifest: bytes) -> bytes:
    """Return what `sha256sum manifest.json` prints for a manifest."""
    return f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n".encode()


def _signature(files):
    try:
        return files.read(SIGNATURE, most=_MAX_LINE)
    except ValueError as error:
        raise ValueError(
            "Expected a signed bundle, since a public key was given; export it with "
            f"`signing_key=`. {error}"
        ) from None


#: What is signed begins with this: no signature made for something else counts.
PREFIX = b"keras_micronets bundle manifest, signature 1\0"
MAX_KEY_BYTES = 2**16


def sign(manifest: bytes, *, signing_key: str | os.PathLike | bytes) -> bytes:
    """Return the signature of a manifest, 64 bytes.

    Args:
        manifest: The bytes of `manifest.json`.
        signing_key: Path of an Ed25519 private key in PEM, not encrypted, or the
            bytes of one. `openssl genpkey -algorithm ed25519 -out private.pem`
            makes one.

    Raises:
        ValueError: If the key is something else, or `cryptography` is missing.
    """
    ed25519, load = _cryptography("Ed25519PrivateKey", "load_pem_private_key")
    key = _load(signing_key, ed25519, lambda pem: load(pem, None), "private")
    return key.sign(PREFIX + manifest)


def check_signature(
    manifest: bytes, signature: bytes, *, public_key: str | os.PathLike | bytes
) -> None:
    """Raise a `ValueError` unless a key's owner signed a manifest.

    Args:
        manifest: The bytes of `manifest.json`.
        signature: What `sign` returned.
        public_key: Path of an Ed25519 public key in PEM, or the bytes of one.
            `openssl pkey -in private.pem -pubout -out public.pem` makes it.

    Raises:
        ValueError: If the signature is another's or of another manifest, the key is
            something else, or `cryptography` is missing.
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
            f"{len(signature)} bytes that does not fit the manifest and the key."
        ) from None


def _cryptography(kind, loader):
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise ValueError(
            "Expected the library cryptography, for signatures; run "
            f"`pip install cryptography`. Received: {error}."
        ) from None
    return getattr(ed25519, kind), getattr(serialization, loader)


def _load(key, kind, load, name):
    from cryptography.exceptions import UnsupportedAlgorithm

    source = "bytes" if isinstance(key, bytes) else os.fspath(key)
    try:
        loaded = load(key if isinstance(key, bytes) else _read(key))
        received = type(loaded).__name__
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        loaded, received = None, error
    if not isinstance(loaded, kind):
        raise ValueError(
            f"Expected an Ed25519 {name} key in PEM, not encrypted (`openssl pkey -in "
            f"KEY -out PLAIN` takes a password off). Received: {source} ({received})."
        )
    return loaded


def _read(path):
    with Path(path).open("rb") as file:
        return file.read(MAX_KEY_BYTES)
