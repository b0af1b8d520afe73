"""Read and write the folder of a pool: a marker, and one subfolder per learner."""

import datetime
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from keras_micronets.edge.bundle.integrity import sha256
from keras_micronets.export.atomic import (
    partial_path,
    remove_abandoned,
    write_atomically,
)
from keras_micronets.learners.learner import READ_ERRORS, Learner

__all__ = [
    "INDEX",
    "RUNS",
    "check_name",
    "open_folder",
    "partial_directory",
    "store",
    "write_json",
]

FORMAT = {"format": "keras_micronets learner pool", "version": 1}
MARKER = "pool.json"
INDEX = "learners.index"
RUNS = "runs"
_FOLDER = "learners"
_PARTS = (MARKER, _FOLDER, INDEX, RUNS)  # of a pool that another process is making
_NAME = re.compile(r"\w[\w .=+-]*")
_MAX_BYTES = 255  # of a file's name, on most systems
_PORTS = [f"{port}{number}" for port in ("COM", "LPT") for number in range(1, 10)]
_DEVICES = {"CON", "PRN", "AUX", "NUL", *_PORTS}


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
    predictions = path / "predictions"
    caches = predictions.iterdir() if predictions.is_dir() else ()
    for parent in (path, folder, path / RUNS, path / "parents", predictions, *caches):
        remove_abandoned(parent)
    return folder


def discard_empty(path: Path) -> None:
    """Remove the folder of a pool if it has no learners."""
    if not any((path / _FOLDER).iterdir()):
        shutil.rmtree(path)


def check_name(name: str) -> None:
    """Raise a `ValueError` unless a name can be that of a folder on every system."""
    if not _NAME.fullmatch(name) or name[-1] in " .":
        raise ValueError(
            "Expected a name of letters, digits and ' ._=+-' that begins with a "
            "letter or digit and does not end in a space or dot. Received: "
            f"name={name!r}."
        )
    if name.partition(".")[0].rstrip().upper() in _DEVICES:
        raise ValueError(
            "Expected a name that Windows does not reserve for a device. Received: "
            f"name={name!r}. Choose another name."
        )
    if len(os.fsencode(name)) > _MAX_BYTES:
        raise ValueError(
            f"Expected a name of at most {_MAX_BYTES} bytes. Received: name={name!r}, "
            f"which has {len(os.fsencode(name))}. Choose a shorter name."
        )


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

    A damaged learner of the same name is replaced.

    Raises:
        ValueError: If the name is taken or invalid.
    """
    if name is not None:
        check_name(name)
    metadata |= {
        "file": file,
        "sha256": sha256(partial / file),
        "n_bytes": (partial / file).stat().st_size,
        "created": datetime.datetime.now(datetime.UTC).isoformat(),
    }
    while True:
        target = folder / (name or f"learner-{number:04d}")
        if target.exists() and name is None:
            number += 1
            continue
        Learner(directory=target, name=target.name, **metadata).write(partial)
        try:
            partial.rename(target)
            return target.name
        except OSError as error:
            if not target.exists():
                raise
            if name is not None and not _remove_damaged(target):
                raise ValueError(
                    "Expected a name that is not taken yet. Received: "
                    f"name={name!r}, which {folder} has already."
                ) from error


def _remove_damaged(directory):
    """Remove the folder of a learner if it is damaged, and return whether it was."""
    if _is_valid(directory):
        return False
    with partial_directory(directory.parent) as partial:
        moved = partial / directory.name
        try:
            directory.rename(moved)
        except FileNotFoundError:  # another process removed it
            return True
        if not _is_valid(moved):
            return True
        moved.rename(directory)  # another process has replaced it in the meantime
        return False


def _is_valid(directory):
    try:
        Learner.read(directory).verify()
    except READ_ERRORS:
        return False
    return True


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
    return all(name in _PARTS or name.startswith(".") for name in names)


@contextmanager
def partial_directory(parent: Path) -> Iterator[Path]:
    """Yield a hidden directory to fill; it is removed when the block ends."""
    path = partial_path(parent)
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    write_atomically(path, json.dumps(value, indent=2).encode())
