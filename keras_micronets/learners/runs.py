"""Reserve the names of training runs in a pool, and find the run that resumes."""

import itertools
import json
import os
import platform
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_micronets.export.atomic import is_running, process_status
from keras_micronets.learners.contents import natural_order
from keras_micronets.learners.storage import RUNS, check_name, write_json

if TYPE_CHECKING:
    from keras_micronets.learners.pool import LearnerPool

__all__ = [
    "Runs",
    "begin_repeatable_run",
    "begin_run",
    "check_run",
    "last_number",
    "next_number",
]

_NUMBER = re.compile(r"run-([0-9]+)(?![0-9])")


class Runs:
    """Reserve names of runs, one file for each, also among several processes.

    Args:
        path: Folder of the pool.
    """

    def __init__(self, path: Path) -> None:
        self.folder = path / RUNS

    def names(self) -> list[str]:
        """Return the reserved names, the first reserved first if they are numbered."""
        if not self.folder.is_dir():
            return []
        files = [name for name in os.listdir(self.folder) if name.endswith(".json")]
        return sorted((file.removesuffix(".json") for file in files), key=natural_order)

    def read(self, name: str) -> dict[str, Any]:
        """Return what is known of a run; empty if it is not reserved or damaged."""
        try:
            record = json.loads(self._path(name).read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}

    def reserve(self, names: Iterable[str], **about: Any) -> str:
        """Reserve and return the first name that is free."""
        self.folder.mkdir(exist_ok=True)
        for name in names:
            try:
                self._path(name).open("x").close()  # which no other process can repeat
            except FileExistsError:
                continue
            self.write(name, **about)
            return name
        raise ValueError("Expected a free name among those given. Received: none.")

    def write(self, name: str, **about: Any) -> None:
        """Record a run as one that this process trains."""
        self.folder.mkdir(exist_ok=True)
        write_json(self._path(name), about | _process())

    def finish(self, name: str) -> None:
        """Record that the `fit` of a run has ended, if that can be written."""
        with suppress(OSError):
            write_json(self._path(name), self.read(name) | {"finished": True})

    def _path(self, name):
        return self.folder / f"{name}.json"


def begin_run(
    pool: "LearnerPool",
    run: str | None,
    *,
    role: str,
    epoch: int = 0,
    backup: str | os.PathLike | None = None,
) -> str:
    """Return the name of the run that a `fit` begins or resumes, and reserve it.

    Args:
        pool: The pool, which is read again.
        run: Name that the user gave, or `None`.
        role: The class of the callback, and its number among those in the same `fit`.
        epoch: Integer, the epoch at which `fit` begins. Defaults to `0`.
        backup: Folder of the `BackupAndRestore` callback of the same `fit`, by which
            its run is found when it resumes. `None` if there is none, and the run is
            the last one that ends at this epoch. Defaults to `None`.

    Raises:
        ValueError: If a run of the given name is being trained by another process.
    """
    pool.refresh()
    runs = Runs(pool.path)
    folder = None if backup is None else _absolute(backup)
    about = {"role": role, "backup": folder, "finished": False}
    if run is None:
        run = _resumed(pool, runs, role, epoch, folder)
    else:
        _check_not_elsewhere(pool, run, runs.read(run))
    if run is None:
        return runs.reserve(map(_name, itertools.count(next_number(pool))), **about)
    runs.write(run, **about)
    return run


def begin_repeatable_run(
    pool: "LearnerPool", run: str | None, *, default: str, content: str
) -> str:
    """Return the name of a run that its arguments identify, and reserve it.

    Args:
        pool: The pool, which is read again.
        run: Name that the user gave. `None` for the run of the same content, or else
            for the default name, with a number if it is taken.
        default: Default name.
        content: Hash of all that determines the learners.

    Raises:
        ValueError: If the run of the given name has other content, or another process
            is training it.
    """
    pool.refresh()
    runs, about = Runs(pool.path), {"role": content, "finished": False}
    if run is not None:
        check_run(run, "-0000")
        record = runs.read(run)
        _check_not_elsewhere(pool, run, record)
        if record.get("role", content) != content:
            raise ValueError(
                "Expected a free name, or the run of the same parent, data and "
                f"arguments. Received: run={run!r}, which {pool.path} has with others. "
                "Give another name."
            )
        runs.write(run, **about)
        return run
    for name in runs.names():
        record = runs.read(name)
        if record.get("role") == content and not _is_elsewhere(record):
            runs.write(name, **about)
            return name
    taken = {learner.run for learner in pool}  # by an earlier version
    names = itertools.chain([default], (f"{default}-{n}" for n in itertools.count(2)))
    return runs.reserve((name for name in names if name not in taken), **about)


def _check_not_elsewhere(pool, run, record):
    if _is_elsewhere(record):
        raise ValueError(
            "Expected a run that no other process is training. Received: "
            f"run={run!r}, which process {record['pid']} trains into {pool.path}. Give "
            "another name, or wait until that process has ended."
        )


def _resumed(pool, runs, role, epoch, backup):
    """Return the run that a `fit` resumes, or `None`."""
    names = runs.names() if epoch or backup else []
    records = {name: runs.read(name) for name in reversed(names)}
    same = {
        name: record
        for name, record in records.items()
        if (record.get("role"), record.get("backup")) == (role, backup)
        and not _is_elsewhere(record)
    }
    if epoch == 0:  # a run that was killed before its first backup
        unfinished = (x for x in same if not same[x]["finished"] and _is_here(same[x]))
        return next(unfinished, None)
    if backup is not None and same:
        return next(iter(same))
    process = _process().items()
    candidates = sorted(same, key=lambda name: not process <= same[name].items())
    last = pool.last_run()
    if last not in records:  # of an earlier version
        candidates.append(last)
    return next((x for x in candidates if _last_epoch(pool, x) <= epoch), None)


def _last_epoch(pool, run):
    return max((x.epoch or 0 for x in pool if x.run == run), default=0)


def next_number(pool: "LearnerPool") -> int:
    """Return the first number that neither a run nor the name of a learner has."""
    names = [*Runs(pool.path).names(), *os.listdir(pool.path / "learners")]
    return 1 + last_number(names + [learner.run or "" for learner in pool])


def last_number(names: Iterable[str]) -> int:
    """Return the highest number among the names of runs, -1 without one."""
    matches = filter(None, map(_NUMBER.match, names))
    return max((int(match[1]) for match in matches), default=-1)


def check_run(run: str | None, longest_suffix: str) -> None:
    """Raise a `ValueError` if a run's name and suffix cannot be a learner's name."""
    if run is not None:
        check_name(run)
        check_name(f"{run}{longest_suffix}")


def _name(number):
    return f"run-{number:03d}"


def _absolute(path):
    text = os.fspath(path)
    return text if "://" in text else os.path.abspath(text)


def _process():
    return {"host": platform.node(), "pid": os.getpid(), "started": _start(os.getpid())}


def _start(pid):
    """Return when a process started, on Linux: ids of processes are reused."""
    status = process_status(pid)
    return None if status is None else status[19]


def _is_here(record):
    return record.get("host") == platform.node()


def _is_elsewhere(record):
    """Return whether another process of this host is training a run."""
    pid = record.get("pid", os.getpid())
    if record.get("finished", True) or pid == os.getpid() or not _is_here(record):
        return False
    return is_running(pid) and record.get("started") == _start(pid)
