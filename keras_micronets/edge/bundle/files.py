"""The bytes of a bundle's files, from a folder or a `.zip`, neither of them trusted."""

import io
import os
import stat
import struct
import zipfile
import zlib
from pathlib import Path

MAX_FILES = 1_000
MAX_FILE_BYTES = 256 * 2**20
MAX_BYTES = 512 * 2**20
#: No single read is larger: a zip's headers cannot ask for more memory than this.
CHUNK = 2**20
#: What `zipfile` raises for damage of one kind or another, besides `OSError`.
DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    ValueError,
    KeyError,
    RuntimeError,  # an encrypted file; NotImplementedError is one as well
    OverflowError,
)


class BundleFiles:
    """Read the files of a bundle, within limits.

    A zip is checked as a whole before anything in it is read. Nothing is extracted
    to disk.

    Args:
        bundle: A folder or a `.zip`.

    Raises:
        ValueError: If it is neither, or a zip that no bundle is like.

    Example:

    ```python
    with BundleFiles("bundle.zip") as files:
        text = files.read("requirements.txt").decode()
    ```
    """

    def __init__(self, bundle: str | os.PathLike):
        self.path = Path(bundle)
        self._left = MAX_BYTES
        self._file = self._archive = None
        if not os.path.isdir(self.path):
            self._open_zip()

    def read(self, name: str, *, most: int = MAX_FILE_BYTES) -> bytes:
        """Return the bytes of a file.

        Args:
            name: Name relative to the bundle, with forward slashes.
            most: How many bytes it may have. Defaults to 256 MiB.

        Raises:
            ValueError: If the name leaves the bundle, or the file is missing, no
                plain file, damaged or too large.
        """
        if not is_inside(name) or self._crosses_link(name):
            raise ValueError(
                f"Expected names of files inside the bundle {self.path}, and no links. "
                f"Received: {name!r}."
            )
        most = min(most, self._left)
        try:
            file, size = self._open(name)
            with file:
                data = _read(file, size, most)
        except (OSError, *DAMAGE) as error:
            raise ValueError(
                "Expected a bundle with all its files; copy or export it anew. "
                f"Received: {self.path}, with no readable {name!r} ({_reason(error)})."
            ) from None
        self._left -= len(data)
        return data

    def names(self) -> set[str]:
        """Return the names of all files, also of those that no manifest lists."""
        if self._archive:
            return {i.filename for i in self._archive.infolist() if not i.is_dir()}
        # A link to a folder counts: what is in there may be imported.
        paths = self.path.rglob("*")
        files = (path for path in paths if path.is_symlink() or not path.is_dir())
        return {path.relative_to(self.path).as_posix() for path in files}

    def close(self) -> None:
        """Close the zip, if it is one."""
        if self._file:
            self._file.close()

    def __enter__(self) -> "BundleFiles":
        return self

    def __exit__(self, *_):
        self.close()

    def _open_zip(self):
        try:
            if not os.path.isfile(self.path):
                raise ValueError("no folder and no file")
            self._file = _SmallReads(self.path)
            self._archive = zipfile.ZipFile(self._file)
            _check_entries(self._archive.infolist())
        except (OSError, *DAMAGE) as error:
            self.close()
            raise ValueError(
                "Expected a bundle, a folder or a .zip with a manifest.json; copy or "
                f"export it anew. Received: {self.path} ({_reason(error)})."
            ) from None

    def _open(self, name):
        if self._archive:
            return self._archive.open(name), self._archive.getinfo(name).file_size
        path = self.path / name
        status = path.lstat()
        # Opening a pipe would wait for ever, and a device may have no end.
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("no plain file")
        return open(path, "rb"), status.st_size

    def _crosses_link(self, name):
        parts = Path(name).parts
        steps = (self.path.joinpath(*parts[: i + 1]) for i in range(len(parts)))
        return not self._archive and any(map(os.path.islink, steps))


def is_inside(name: str) -> bool:
    """Return whether a name is that of a file inside a folder, on every system."""
    # A colon begins a drive or a hidden stream on Windows.
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
        raise ValueError("several files of one name")
    for entry in entries:
        if wrong := _wrong(entry):
            raise ValueError(f"{entry.orig_filename!r}: {wrong}")
    if sum(entry.file_size for entry in entries) > MAX_BYTES:
        raise ValueError(f"over {MAX_BYTES:,} bytes together")


def _wrong(entry):
    kind = stat.S_IFMT(entry.external_attr >> 16)
    same = entry.filename == entry.orig_filename  # `zipfile` cuts names at a NUL
    wrong = {
        "no name inside the bundle": not (
            same and is_inside(entry.filename.removesuffix("/"))
        ),
        "no plain file": kind not in (0, stat.S_IFREG, stat.S_IFDIR),
        "encrypted": entry.flag_bits & 1,
        "compressed by something but deflate": entry.compress_type
        not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED),
        f"over {MAX_FILE_BYTES:,} bytes": entry.file_size > MAX_FILE_BYTES,
    }
    return next((reason for reason, is_so in wrong.items() if is_so), None)


def _read(file, size, most):
    if size > most:
        raise ValueError(f"{size:,} bytes, more than {most:,}")
    # The size that is declared may be a lie: count as well.
    chunks, left = [], size
    while chunk := file.read(CHUNK):
        left -= len(chunk)
        if left < 0:
            break
        chunks.append(chunk)
    if left:
        raise ValueError(f"not the {size:,} bytes that are declared")
    return b"".join(chunks)


def _reason(error):
    return getattr(error, "strerror", None) or error
