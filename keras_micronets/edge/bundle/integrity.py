"""Whether a bundle's files are the ones that were written."""

import hashlib
import os

from .files import BundleFiles
from .manifest import Manifest


def sha256(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(directory: str | os.PathLike) -> Manifest:
    """Check every file of a bundle against its manifest.

    This finds damage, and a manifest that points outside its bundle. It is no
    signature: whoever can write a bundle can write a manifest that suits it.

    Args:
        directory: The bundle, a folder or a `.zip`.

    Returns:
        The manifest.

    Raises:
        ValueError: If the manifest is of another format, or a file is missing,
            changed, too large or outside the bundle; the message names it.
    """
    return read_verified(directory)[0]


def read_verified(directory: str | os.PathLike) -> tuple[Manifest, dict[str, bytes]]:
    """Check a bundle and return what was checked.

    Args:
        directory: As for `verify`.

    Returns:
        The manifest, and the bytes of the members' files by name: the very bytes
        whose hash was taken, so that nothing can change in between.

    Raises:
        ValueError: As for `verify`.
    """
    with BundleFiles(directory) as files:
        manifest = Manifest.read_from(files)
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
