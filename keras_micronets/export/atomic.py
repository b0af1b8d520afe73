"""Write files so that a reader sees all of them or none."""

import ctypes
import os
import platform
import shutil
import tempfile
import time
import uuid
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

__all__ = [
    "is_running",
    "is_zip",
    "partial_path",
    "process_status",
    "remove_abandoned",
    "write_atomically",
    "write_whole",
]

_HERE = -100  # AT_FDCWD: paths are relative to the working directory
_EXCHANGE = 2  # RENAME_EXCHANGE
_PARTIAL = ".partial-"
_HOST = f"{zlib.crc32(platform.node().encode()):08x}"
_DAY = 24 * 60 * 60


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file as a whole or not at all; an earlier one is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path.parent)
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def partial_path(folder: Path) -> Path:
    """Return the path of an unfinished file or folder, to be renamed when complete.

    It names the process and its host, so that leftovers of a killed process can be
    told from a running one.
    """
    name = f"{_PARTIAL}{os.getpid()}-{_HOST}-{uuid.uuid4().hex[:8]}"
    return folder / name


def remove_abandoned(folder: Path) -> None:
    """Remove the unfinished files and folders of processes that have ended.

    Those of other hosts, whose processes are not known here, are removed after a day.
    A folder that does not exist or cannot be written stays as it is.
    """
    try:
        names = [name for name in os.listdir(folder) if name.startswith(_PARTIAL)]
    except OSError:
        return
    for name in names:
        path, (pid, host, *_) = folder / name, [*name.split("-")[1:], ""]
        is_other_host = name.count("-") > 2 and host != _HOST
        if is_other_host and not _is_old(path):
            continue
        if pid.isdecimal() and (is_other_host or not is_running(int(pid))):
            _remove(path)


def is_running(pid: int) -> bool:
    """Return whether a process of this host runs.

    A process that has ended may remain as a zombie, as in a container whose first
    process does not wait for others.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    status = process_status(pid)
    return status is None or status[0] != "Z"


def process_status(pid: int) -> list[str] | None:
    """Return the fields of `/proc/PID/stat` from the state on; `None` without Linux."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:  # no Linux, or the process has ended
        return None
    return text.rpartition(")")[2].split()


def _remove(path):
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(OSError):
        path.unlink()


def _is_old(path):
    try:
        return time.time() - path.stat().st_mtime > _DAY
    except OSError:
        return False


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
