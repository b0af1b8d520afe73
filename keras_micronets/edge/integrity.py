"""Whether a bundle's files are the ones that were written."""

import hashlib
import os
from pathlib import Path, PurePosixPath, PureWindowsPath

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
        directory: The bundle.

    Returns:
        The manifest.

    Raises:
        ValueError: If the manifest is of another format, or a file is missing,
            changed or outside the bundle; the message names it.
    """
    manifest = Manifest.read(directory)
    root = Path(directory).resolve()
    for name, expected in manifest.files.items():
        received = _hash_inside(root, name)
        if received != expected:
            raise ValueError(
                f"Expected the files that were exported; copy or export the bundle "
                f"{directory} anew. Received: a changed {name!r} with the SHA-256 "
                f"{received}, not {expected}."
            )
    return manifest


def _hash_inside(root, name):
    path = root / name
    if not (_is_plain(name) and path.resolve().is_relative_to(root)):
        raise ValueError(
            f"Expected names of files inside the bundle {root}. Received: {name!r}."
        )
    try:
        return sha256(path)
    except OSError as error:
        raise ValueError(
            f"Expected every file of the manifest in the bundle {root}; copy or export "
            f"it anew. Received: no readable {name!r} ({error.strerror})."
        ) from None


def _is_plain(name):
    # The same on every system: a name made for Windows must not slip through on it.
    foreign = PureWindowsPath(name)
    inside = "\0" not in name and ".." not in foreign.parts
    return inside and not (foreign.anchor or PurePosixPath(name).is_absolute())
