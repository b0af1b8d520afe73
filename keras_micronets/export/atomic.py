"""Write files so that a reader sees all of them or none."""

import ctypes
import os
import tempfile
import uuid
import zipfile
from collections.abc import Callable
from pathlib import Path

__all__ = ["is_zip", "write_atomically", "write_whole"]

_HERE = -100  # AT_FDCWD: paths are relative to the working directory
_EXCHANGE = 2  # RENAME_EXCHANGE


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file as a whole or not at all; an earlier one is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(
    target: Path, contents: dict[str, bytes], *, check: Callable[[Path], None]
) -> None:
    """Write files beside their target, check them, then swap the two.

    All bytes are on the disk before the swap, and the swap before the return. After a
    kill or a power cut, the target holds the old files or the new ones; a `.bundle-*`
    folder beside it may be left and can be deleted. Where the system cannot exchange
    two folders in one step (other than Linux, or a network file system), the target is
    missing for a moment: if the process dies then, the old files are in that
    `.bundle-*` folder, as `old`.

    Args:
        target: Path of a zip, if it ends in `.zip`, or of a folder; it is replaced.
        contents: The bytes of each file by its name, with forward slashes.
        check: Function of the path of the new files, called before the swap; an
            exception prevents it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".bundle-") as temporary:
        new, old = Path(temporary, "new"), Path(temporary, "old")
        (_write_zip if is_zip(target) else _write_folder)(new, contents)
        check(new)
        _swap(target, new, old)
        _sync(target.parent)


def is_zip(target: Path) -> bool:
    """Return whether a path names a zip file."""
    return target.suffix.lower() == ".zip"


def _write_folder(folder, contents):
    for name, data in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)
            _flush(file)
    for path, _, _ in os.walk(folder, topdown=False):
        _sync(path)


def _write_zip(path, contents):
    with open(path, "xb") as file:
        with zipfile.ZipFile(file, "w") as archive:
            for name, data in sorted(contents.items()):
                entry = zipfile.ZipInfo(name)  # its date is fixed, in 1980
                entry.create_system = 3  # Unix, on every system
                entry.external_attr = 0o100644 << 16
                archive.writestr(entry, data, zipfile.ZIP_DEFLATED, compresslevel=9)
        _flush(file)


def _flush(file):
    file.flush()
    os.fsync(file.fileno())


def _sync(folder):
    if os.name != "posix":  # Windows cannot, and need not, open folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _swap(target, new, old):
    if not target.is_dir():
        os.replace(new, target)
        return
    try:
        _exchange(new, target)
    except (OSError, AttributeError):  # not supported by the system
        os.rename(target, old)
        try:
            os.rename(new, target)
        except OSError:
            os.rename(old, target)
            raise


def _exchange(a, b):
    """Swap two paths in one step; Python has no function for that."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_HERE, os.fsencode(a), _HERE, os.fsencode(b), _EXCHANGE):
        raise OSError(ctypes.get_errno(), "No exchange", os.fspath(b))
