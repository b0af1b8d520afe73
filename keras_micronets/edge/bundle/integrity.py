"""Check that the files of a bundle are the exported ones."""

import hashlib
import os
import reprlib

from .files import BundleFiles
from .manifest import Manifest
from .signature import UNLISTED

__all__ = ["read_verified", "sha256", "verify"]


def sha256(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(
    path: str | os.PathLike, *, public_key: str | os.PathLike | bytes | None = None
) -> Manifest:
    """Check that a bundle contains the exported files and no others.

    Without a public key this detects damage and accidents, but not attacks: whoever
    can modify a bundle can also compute matching hashes.

    Args:
        path: The bundle, a folder or a `.zip`.
        public_key: Path of an Ed25519 public key in PEM, or its bytes. The bundle must
            be signed by the key's owner, which is checked first. Defaults to `None`:
            signatures are ignored.

    Returns:
        The manifest.

    Raises:
        ValueError: If the manifest is modified, of another format or not signed, or
            a file is missing, modified, too large, outside the bundle or not
            listed; the message names it.

    Example:

    ```python
    from keras_micronets.edge import verify

    print(verify("bundle.zip").digest)
    ```
    """
    with BundleFiles(path) as files:
        manifest, _ = _read(files, public_key)
        extra = sorted(files.names() - {*manifest.files} - UNLISTED)
    if extra:
        raise ValueError(
            f"Expected only the exported files. Received also: {reprlib.repr(extra)} "
            f"in {files.path}. Move them away: Python may import them when it runs the "
            "bundle."
        )
    return manifest


def read_verified(
    path: str | os.PathLike, *, public_key: str | os.PathLike | bytes | None = None
) -> tuple[Manifest, dict[str, bytes]]:
    """Return a bundle's manifest, and its models' bytes by the name of the file.

    The files are checked as by `verify`, except that unlisted ones are ignored. The
    bytes returned are those that were hashed: they cannot change between check and use.
    """
    with BundleFiles(path) as files:
        return _read(files, public_key)


def _read(files, public_key):
    manifest = Manifest.read_from(files, public_key=public_key)
    wanted = {member.file for member in manifest.members}
    models = {}
    for name, expected in manifest.files.items():
        data = files.read(name)
        _check_hash(files.path, name, data, expected)
        if name in wanted:
            models[name] = data
    return manifest, models


def _check_hash(bundle, name, data, expected):
    received = hashlib.sha256(data).hexdigest()
    if received != expected:
        raise ValueError(
            f"Expected the files that were exported; copy or export the bundle "
            f"{bundle} again. Received: a modified {name!r} with the SHA-256 "
            f"{received}, not {expected}."
        )
