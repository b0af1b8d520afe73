"""Writing folders and files so that a reader sees all of them or nothing."""

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that is there as a whole or not at all."""
    partial = path.with_name(f".partial-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    partial.write_bytes(content)
    partial.replace(path)


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
