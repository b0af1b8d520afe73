"""Read the files of an untrusted bundle, from a folder or a `.zip`."""

import io
import os
import stat
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

__all__ = ["BundleFiles", "is_inside"]

MAX_FILES = 1_000
MAX_FILE_BYTES = 256 * 2**20
MAX_BYTES = 512 * 2**20
#: Largest single read, so that the headers of a zip cannot demand more memory.
CHUNK = 2**20
#: Exceptions that `zipfile` raises for damaged files, besides `OSError`.
DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    ValueError,
    KeyError,
    RuntimeError,  # for an encrypted file; its subclass NotImplementedError for others
    OverflowError,
)


class BundleFiles:
    """Read the files of a bundle, within limits.

    The table of contents of a zip is checked before any file in it is read. Nothing is
    extracted to disk.

    Args:
        path: A folder or a `.zip`.

    Raises:
        ValueError: If it is neither, or a zip with invalid entries.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self._left = MAX_BYTES
        self._file = self._archive = None
        if not os.path.isdir(self.path):
            self._open_zip()

    def read(self, name: str, *, max_bytes: int = MAX_FILE_BYTES) -> bytes:
        """Return the bytes of a file, named relative to the bundle.

        Raises:
            ValueError: If the name points outside the bundle, or the file is missing,
                not a regular file, damaged or too large.
        """
        if not is_inside(name) or self._crosses_link(name):
            raise ValueError(
                f"Expected the name of a file inside the bundle {self.path}, not a "
                f"link. Received: {name!r}."
            )
        max_bytes = min(max_bytes, self._left)
        try:
            file, size = self._open(name)
            with file:
                data = _read(file, size, max_bytes)
        except (OSError, *DAMAGE) as error:
            raise ValueError(
                "Expected a bundle with all its files; copy or export it again. "
                f"Received: {self.path}, with no readable {name!r} ({_reason(error)})."
            ) from None
        self._left -= len(data)
        return data

    def names(self) -> set[str]:
        """Return the names of all files, including those not listed in the manifest."""
        if self._archive:
            return {i.filename for i in self._archive.infolist() if not i.is_dir()}
        # A link to a folder counts as a file: Python might import modules through it.
        paths = self.path.rglob("*")
        files = (path for path in paths if path.is_symlink() or not path.is_dir())
        return {path.relative_to(self.path).as_posix() for path in files}

    def close(self) -> None:
        """Close the file of a zip."""
        if self._file:
            self._file.close()

    def __enter__(self) -> "BundleFiles":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _open_zip(self):
        try:
            if not os.path.isfile(self.path):
                raise ValueError("not a folder or file")
            self._file = _SmallReads(self.path)
            self._archive = zipfile.ZipFile(self._file)
            _check_entries(self._archive.infolist())
        except (OSError, *DAMAGE) as error:
            self.close()
            raise ValueError(
                "Expected a bundle, a folder or a .zip with a manifest.json; copy or "
                f"export it again. Received: {self.path} ({_reason(error)})."
            ) from None

    def _open(self, name):
        if self._archive:
            return self._archive.open(name), self._archive.getinfo(name).file_size
        path = self.path / name
        status = path.lstat()
        # Opening a pipe would block, and reading a device might never end.
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("not a regular file")
        return open(path, "rb"), status.st_size

    def _crosses_link(self, name):
        parts = Path(name).parts
        paths = (self.path.joinpath(*parts[: i + 1]) for i in range(len(parts)))
        return not self._archive and any(map(os.path.islink, paths))


def is_inside(name: str) -> bool:
    """Return whether a file name stays inside its folder, on every system."""
    # On Windows a colon starts a drive or an alternate data stream.
    return not ({*"\\:\0"} & {*name} or {"", ".", ".."} & {*name.split("/")})


class _SmallReads(io.FileIO):
    def read(self, size=-1):
        if size is not None and size > CHUNK:
            raise zipfile.BadZipFile(f"a table of contents over {CHUNK:,} bytes")
        return super().read(CHUNK if size is None or size < 0 else size)


def _check_entries(entries):
    names = [entry.filename for entry in entries]
    if len(names) > MAX_FILES:
        raise ValueError(f"{len(names):,} files, more than {MAX_FILES:,}")
    if len(set(names)) != len(names):
        raise ValueError("several files with the same name")
    for entry in entries:
        if problem := _problem(entry):
            raise ValueError(f"{entry.orig_filename!r}: {problem}")
    if sum(entry.file_size for entry in entries) > MAX_BYTES:
        raise ValueError(f"over {MAX_BYTES:,} bytes in total")


def _problem(entry):
    file_type = stat.S_IFMT(entry.external_attr >> 16)
    is_same = entry.filename == entry.orig_filename  # `zipfile` cuts names at a NUL
    problems = {
        "outside the bundle": not (
            is_same and is_inside(entry.filename.removesuffix("/"))
        ),
        "not a regular file": file_type not in (0, stat.S_IFREG, stat.S_IFDIR),
        "encrypted": entry.flag_bits & 1,
        "not compressed by deflate": entry.compress_type
        not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED),
        f"over {MAX_FILE_BYTES:,} bytes": entry.file_size > MAX_FILE_BYTES,
    }
    return next((problem for problem, holds in problems.items() if holds), None)


def _read(file, size, max_bytes):
    if size > max_bytes:
        raise ValueError(f"{size:,} bytes, more than {max_bytes:,}")
    # The declared size may be false, so count the bytes as well.
    chunks, left = [], size
    while chunk := file.read(CHUNK):
        left -= len(chunk)
        if left < 0:
            break
        chunks.append(chunk)
    if left:
        raise ValueError(f"a size other than the declared {size:,} bytes")
    return b"".join(chunks)


def _reason(error):
    return getattr(error, "strerror", None) or error
