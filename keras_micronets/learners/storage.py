"""Read and write the folder of a pool: a marker, and one subfolder per learner."""

import datetime
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from keras_micronets.edge.bundle.integrity import sha256
from keras_micronets.export.atomic import write_atomically
from keras_micronets.learners.learner import METADATA_FILE, Learner

__all__ = ["open_folder", "partial_directory", "read_learners", "store"]

FORMAT = {"format": "keras_micronets learner pool", "version": 1}
MARKER = "pool.json"
_FOLDER = "learners"
_NAME = re.compile(r"\w[\w .=+-]*")


def open_folder(path: Path) -> Path:
    """Open or make the folder of a pool, and return the folder of its learners.

    A path that exists and is not a pool raises a `ValueError`; nothing is written then.
    """
    marker, folder = path / MARKER, path / _FOLDER
    if marker.is_file():
        _check_format(marker)
    elif path.exists() and not (path.is_dir() and _is_free(path)):
        raise ValueError(
            "Expected the path of a pool, or one that is free. Received: "
            f"{path}, which exists and is not a pool. Choose another path."
        )
    folder.mkdir(parents=True, exist_ok=True)
    if not marker.is_file():
        write_json(marker, FORMAT)
    remove_abandoned(folder)
    return folder


def discard_empty(path: Path) -> None:
    """Remove the folder of a pool if it has no learners."""
    if not any((path / _FOLDER).iterdir()):
        shutil.rmtree(path)


def read_learners(
    folder: Path, known: Iterable[Learner] = ()
) -> tuple[list[Learner], dict[str, str]]:
    """Return the valid learners of a folder, and the errors of the others by name.

    Learners that are known, read and verified before, are not read again.
    """
    by_name = {learner.name: learner for learner in known}
    valid, damaged = [], {}
    for directory in sorted(folder.iterdir()):
        if directory.name.startswith("."):
            continue
        try:
            valid.append(by_name.get(directory.name) or _read(directory))
        except (OSError, ValueError, TypeError, KeyError) as error:
            damaged[directory.name] = f"{type(error).__name__}: {error}"
    return valid, damaged


def store(
    folder: Path,
    partial: Path,
    file: str,
    name: str | None,
    number: int,
    **metadata: Any,
) -> str:
    """Complete a partial folder, move it into the pool, and return the learner's name.

    Args:
        folder: The path that `open_folder` returned.
        partial: Folder that holds the model's file.
        file: Name of that file.
        name: Name of the learner; `None` for the first free number.
        number: Integer, the first number to try.
        **metadata: The other attributes of the `Learner`.

    Raises:
        ValueError: If the name is taken or invalid.
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
        content = json.loads(marker.read_text())
    except ValueError as error:
        content = f"{type(error).__name__}: {error}"
    if content != FORMAT:
        raise ValueError(
            f"Expected a pool of format {FORMAT}. Received: {marker}, which holds "
            f"{content}. Use the version that wrote it, or choose another path."
        )


def _is_free(path):
    """Return whether a folder holds nothing but parts of a pool being made."""
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
    """Yield a hidden directory to fill; it is removed when the block ends.

    Its name holds the process's id, so that leftovers of a killed process can be told
    from a running one.
    """
    path = parent / f".partial-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def remove_abandoned(parent: Path) -> None:
    """Remove the partial directories of processes that have ended."""
    for path in parent.glob(".partial-*"):
        pid = path.name.split("-")[1]
        if pid.isdigit() and not _is_running(int(pid)):
            shutil.rmtree(path, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
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
