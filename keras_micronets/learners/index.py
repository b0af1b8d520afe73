"""Keep the metadata of all learners of a pool in one file."""

import json
import os
import zlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from keras_micronets.export.atomic import write_atomically

__all__ = ["Entry", "Index", "Stamp"]


class Stamp(NamedTuple):
    """Sizes and modification times of the two files of a learner.

    Files with the same stamp are taken for unchanged until they are used.
    """

    metadata_bytes: int
    metadata_ns: int
    model_bytes: int
    model_ns: int

    @classmethod
    def of(cls, metadata: str | os.PathLike, model: str | os.PathLike) -> "Stamp":
        """Return the stamp of two files."""
        one, other = os.stat(metadata), os.stat(model)
        return cls(one.st_size, one.st_mtime_ns, other.st_size, other.st_mtime_ns)


class Entry(NamedTuple):
    """Describe one learner: the stamp of its files, and its metadata."""

    stamp: Stamp
    values: dict[str, Any]


class Index:
    """Copy the metadata of all learners into one file, to open a pool quickly.

    The file holds nothing that the folders of the learners do not hold, and can be
    removed at any time. Each line is a checksum and the JSON of one entry; of several
    lines of one learner the last counts. A line is appended by one write, so several
    processes may add to a pool. Lines that are damaged are ignored, as are those whose
    stamp is not that of the files: these learners are read from their folders.

    Args:
        path: The file. It need not exist.

    Attributes:
        n_lines: Number of lines when the file was last read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.n_lines = 0

    def read(self) -> dict[str, Entry]:
        """Return the entries by the learners' names; empty without a file."""
        entries, self.n_lines = {}, 0
        with suppress(OSError), self.path.open("rb") as lines:
            for line in lines:
                self.n_lines += len(line) > 1
                entry = _decode(line)
                if entry is not None:
                    entries[entry.values["name"]] = entry
        return entries

    def append(self, entries: Iterable[Entry]) -> None:
        """Add entries; nothing happens where the file cannot be written."""
        # A process that was killed may have left half a line: each begins a new one.
        content = b"".join(b"\n" + _encode(entry) for entry in entries)
        with suppress(OSError), self.path.open("ab", buffering=0) as file:
            file.write(content)

    def replace(self, entries: Iterable[Entry]) -> None:
        """Write the file again with these entries only."""
        with suppress(OSError):
            write_atomically(self.path, b"".join(map(_encode, entries)))


def _encode(entry):
    text = json.dumps(entry, allow_nan=False, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _decode(line):
    checksum, _, text = line.rstrip(b"\n").partition(b" ")
    try:
        if int(checksum, 16) != zlib.crc32(text):
            return None
        stamp, values = json.loads(text)
        return Entry(Stamp(*stamp), values) if "name" in values else None
    except (ValueError, TypeError):
        return None
