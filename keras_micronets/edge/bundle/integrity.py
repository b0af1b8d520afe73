"""Whether a bundle's files are the ones that were written."""

import hashlib
import os
import reprlib

from .files import BundleFiles
from .manifest import Manifest
from .signature import UNLISTED


def sha256(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(
    directory: str | os.PathLike,
    *,
    public_key: str | os.PathLike | bytes | None = None,
) -> Manifest:
    """Check that a bundle's files are those that were exported, and no others.

    Without a public key this finds damage and accidents: whoever can write a bundle
    can write hashes that suit it.

    Args:
        directory: The bundle, a folder or a `.zip`.
        public_key: Path of an Ed25519 public key in PEM, or the bytes of one: the
            bundle must be signed by its owner, which is checked before anything
            else. Defaults to `None`: signatures are not looked at.

    Returns:
        The manifest.

    Raises:
        ValueError: If the manifest is changed, of another format or not signed, or
            a file is missing, changed, too large, outside the bundle or not
            listed; the message names it.

    Example:

    ```python
    print(verify("bundle.zip", public_key="public.pem").digest)
    ```
    """
    with BundleFiles(directory) as files:
        manifest, _ = _read(files, public_key)
        extra = sorted(files.names() - {*manifest.files} - UNLISTED)
    if extra:
        raise ValueError(
            "Expected no files but those that were exported: Python may import others "
            f"when it runs the bundle; move them away. Received: {reprlib.repr(extra)} "
            f"in {files.path}."
        )
    return manifest


def read_verified(
    directory: str | os.PathLike,
    *,
    public_key: str | os.PathLike | bytes | None = None,
) -> tuple[Manifest, dict[str, bytes]]:
    """Check the files that a bundle's manifest lists, and return what was checked.

    Args:
        directory, public_key: As for `verify`.

    Returns:
        The manifest, and the bytes of the members' files by name: the very bytes
        whose hash was taken, so that nothing can change in between.

    Raises:
        ValueError: As for `verify`, but for files that are not listed: they are
            not read.
    """
    with BundleFiles(directory) as files:
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
            f"{bundle} anew. Received: a changed {name!r} with the SHA-256 "
            f"{received}, not {expected}."
        )
