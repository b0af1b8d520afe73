"""Read the learners of a pool's folder."""

import bisect
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from keras_micronets.learners.index import Entry, Index, Stamp
from keras_micronets.learners.learner import METADATA_FILE, READ_ERRORS, Learner

__all__ = ["Contents", "natural_order"]

_NUMBERS = re.compile(r"([0-9]+)")
_SPARE_LINES = 100  # of the index, before it is written again


class _Known(NamedTuple):
    """A learner, and the stamp that its files had when they were verified."""

    stamp: Stamp
    learner: Learner


class Contents:
    """Hold the learners of a folder, in the order of their names.

    A learner whose files have the stamp that the index gives is taken from there;
    others are read and their files are verified.

    Args:
        folder: Folder with a subfolder for each learner.
        index: The `Index` of these learners.

    Attributes:
        learners: The valid learners.
        damaged: The errors of the others, by name.
    """

    def __init__(self, folder: Path, index: Index) -> None:
        self.folder = folder
        self.index = index
        self.learners: list[Learner] = []
        self.damaged: dict[str, str] = {}
        self._known: dict[str, _Known] = {}

    def refresh(self) -> None:
        """Read what has changed in the folder."""
        current, damaged, read, index = {}, {}, [], None
        for name in _visible(self.folder):
            try:
                known = self._known.get(name)
                if known is None or not _is_unchanged(known):
                    index = self.index.read() if index is None else index
                    known = _from_index(self.folder / name, index.get(name))
                if known is None:
                    known = _read(self.folder / name)
                    read.append(known)
                current[name] = known
            except READ_ERRORS as error:
                if (self.folder / name).exists():  # another process may remove it
                    damaged[name] = f"{type(error).__name__}: {error}"
        self._known, self.damaged = current, damaged
        names = sorted(current, key=natural_order)
        self.learners = [current[name].learner for name in names]
        if read:
            self.index.append(map(_entry, read))
        if index and self.index.n_lines > 2 * len(current) + _SPARE_LINES:
            self.index.replace(map(_entry, current.values()))

    def find(self, name: str) -> Learner | None:
        """Return the learner of a name, or `None`."""
        i = self._position(name)
        matches = self.learners[i : i + 1]
        return matches[0] if matches and matches[0].name == name else None

    def add(self, directory: Path) -> Learner:
        """Return the learner of a folder that this process has written just now."""
        learner = Learner.read(directory)
        self.remove(learner.name)
        known = _Known(_stamp(learner), learner)
        self._known[learner.name] = known
        self.learners.insert(self._position(learner.name), learner)
        self.index.append([_entry(known)])
        return learner

    def remove(self, name: str) -> None:
        """Forget a learner."""
        self.damaged.pop(name, None)
        if self.find(name) is not None:
            del self.learners[self._position(name)], self._known[name]

    def _position(self, name):
        key = natural_order(name)
        return bisect.bisect_left(
            self.learners, key, key=lambda learner: natural_order(learner.name)
        )


def natural_order(name: str) -> tuple[list[Any], str]:
    """Return the key that sorts names with numbers: `run-999` before `run-1000`."""
    parts: list[Any] = _NUMBERS.split(name)
    parts[1::2] = map(int, parts[1::2])
    return parts, name


def _visible(folder):
    return [name for name in os.listdir(folder) if not name.startswith(".")]


def _read(directory):
    learner = Learner.read(directory)
    stamp = _stamp(learner)  # before the file is verified: a later change is noticed
    learner.verify()
    return _Known(stamp, learner)


def _from_index(directory, entry):
    """Return the learner of an entry, or `None` if its files are others."""
    if entry is None:
        return None
    try:
        known = _Known(entry.stamp, Learner(directory=directory, **entry.values))
        return known if _is_unchanged(known) else None
    except READ_ERRORS:
        return None


def _is_unchanged(known):
    try:
        return known.stamp == _stamp(known.learner)
    except OSError:
        return False


def _entry(known):
    return Entry(known.stamp, known.learner.to_dict(exclude=("directory",)))


def _stamp(learner):
    folder = os.fspath(learner.directory)
    return Stamp.of(f"{folder}/{METADATA_FILE}", f"{folder}/{learner.file}")
