"""The folder of a pool: a marker, and one subfolder a learner."""

import datetime
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from keras_micronets.edge.bundle.integrity import sha256
from keras_micronets.export.atomic import write_atomically
from keras_micronets.learners.learner import METADATA_FILE, Learner

FORMAT = {"format": "keras_micronets learner pool", "version": 1}
MARKER = "pool.json"
_FOLDER = "learners"
_NAME = re.compile(r"\w[\w .=+-]*")


def open_folder(path: Path) -> Path:
    """Open the folder of a pool, or make one, and return where its learners lie.

    Args:
        path: The folder.

    Raises:
        ValueError: If the path exists and is something else; nothing is written.
    """
    marker, folder = path / MARKER, path / _FOLDER
    if marker.is_file():
        _check_format(marker)
    elif path.exists() and not (path.is_dir() and _is_free(path)):
        raise ValueError(
            "Expected the path of a pool, or one that is free. Received: "
            f"{path}, which exists and is no pool. Choose another path."
        )
    folder.mkdir(parents=True, exist_ok=True)
    if not marker.is_file():
        write_json(marker, FORMAT)
    remove_abandoned(folder)
    return folder


def discard_empty(path: Path) -> None:
    """Remove the folder of a pool that no learner came into."""
    if not any((path / _FOLDER).iterdir()):
        shutil.rmtree(path)


def read_learners(
    folder: Path, known: Iterable[Learner] = ()
) -> tuple[list[Learner], dict[str, str]]:
    """Return the sound learners of a folder, and what is wrong with the others.

    Args:
        folder: What `open_folder` returned.
        known: Learners that were read, and their files hashed, before.
    """
    known = {learner.name: learner for learner in known}
    sound, damaged = [], {}
    for directory in sorted(folder.iterdir()):
        if directory.name.startswith("."):
            continue
        try:
            sound.append(known.get(directory.name) or _read(directory))
        except (OSError, ValueError, TypeError, KeyError) as error:
            damaged[directory.name] = f"{type(error).__name__}: {error}"
    return sound, damaged


def store(
    folder: Path, partial: Path, file: str, name: str | None, number: int, **metadata
) -> str:
    """Complete a partial folder, put it in its place in one step, return its name.

    Args:
        folder: What `open_folder` returned.
        partial: Folder with the model's file in it.
        file: Name of that file.
        name: Name of the learner; `None` for the first number that is free.
        number: Integer to begin with.
        **metadata: The other attributes of the `Learner`.

    Raises:
        ValueError: If the name is taken, or a folder cannot have it.
    """
    if name and not _NAME.fullmatch(name):
        raise ValueError(
            "Expected a name of letters, digits and ' ._=+-' that begins with a "
            f"letter or digit. Received: name={name!r}."
        )
    metadata |= {
        "file": file,
        "sha256": sha256(partial / file),
        "n_bytes": (partial / file).stat().st_size,
        "created": datetime.datetime.now(datetime.UTC).isoformat(),
    }
    while True:
        target = folder / (name or f"learner-{number:04d}")
        learner = Learner(directory=target, name=target.name, **metadata)
        learner.write(partial)
        try:
            partial.rename(target)
            return target.name
        except OSError as error:
            if not target.exists():
                raise
            if name:
                raise ValueError(
                    "Expected a name that is not taken yet. Received: "
                    f"name={name!r}, which {folder} has already."
                ) from error
            number += 1


def _check_format(marker):
    try:
        found = json.loads(marker.read_text())
    except ValueError as error:
        found = f"{type(error).__name__}: {error}"
    if found != FORMAT:
        raise ValueError(
            f"Expected a pool of format {FORMAT}. Received: {marker}, which says "
            f"{found}. Use the version that wrote it, or choose another path."
        )


def _is_free(path):
    """Whether nothing is there but what a pool that is being made has."""
    names = {entry.name for entry in path.iterdir()}
    return all(name in (MARKER, _FOLDER) or name.startswith(".") for name in names)


def _read(directory):
    learner = Learner.read(directory)
    if learner.name != directory.name:
        raise ValueError(f"its {METADATA_FILE} is that of {learner.name!r}")
    if sha256(learner.path) != learner.sha256:
        raise ValueError("its model file is not the one that was written")
    return learner


@contextmanager
def partial_directory(parent: Path) -> Iterator[Path]:
    """Give a hidden directory to fill; it is gone when the block ends.

    Its name tells which process fills it, so that the rests of one that was killed
    can be told from one at work.

    Args:
        parent: The directory that will hold the finished one.
    """
    path = parent / f".partial-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def remove_abandoned(parent: Path) -> None:
    """Remove the partial directories of processes that run no more."""
    for path in parent.glob(".partial-*"):
        pid = path.name.split("-")[1]
        if pid.isdigit() and not _is_running(int(pid)):
            shutil.rmtree(path, ignore_errors=True)


def write_json(path: Path, value) -> None:
    """Write a JSON file atomically."""
    write_atomically(path, json.dumps(value, indent=2).encode())


def _is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
