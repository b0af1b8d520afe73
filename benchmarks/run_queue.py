"""Run the long benchmarks in the background, one after another, in order of worth.

    nice -n 19 python -m benchmarks.run_queue --cifar10 cifar10.npz --fsdd fsdd.npz
    python -m benchmarks.run_queue --status

Each entry is a benchmark that resumes and writes its results as they come, so the queue
may be killed at any time. While the file `pause` exists in the folder of the queue, the
running benchmark is stopped: `touch` it before tests or timings, remove it afterwards.
Several queues may run at once; each takes the first entry that no other one holds. The
hours spent are added up in `queue.json`.
"""

import argparse
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from benchmarks.lib.results import RESULTS_FOLDER

FOLDER = Path.home() / ".cache" / "keras_micronets" / "queue"
HOURS = RESULTS_FOLDER / "queue.json"
THREADS = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
IMAGES, NOISY, DIGITS, VIBRATION = TASKS = (
    "images",
    "noisy images",
    "spoken digits",
    "vibration",
)
ALL_IMAGES = "all images"
# Rows, and those that train members which they use.
FULL_SIZE = {
    "regularised": None,
    "80 % sparse, QAT": None,
    "half of the multiply-accumulates": None,
    "deep ensemble of 4": "regularised",
    "distilled from 4": "deep ensemble of 4",
    "4 side by side": None,
    "baseline": None,
    "90 % sparse, QAT": None,
}
DECISIVE = (
    "baseline",
    "regularised",
    "regularised, decay of ensembles",
    "regularised, weight average",
    "label smoothing",
    "2 side by side",
    "deep ensemble of 4",
    "distilled from 3",
    "distilled from 1, 3 times as long",
    "4 side by side",
    "regularised, 5 times as long",
)
FURTHER = (
    "regularised, QAT",
    "deep ensemble of 2",
    "best single of 4",
    "distilled from 4",
    "distilled from 2 side by side",
    "4 of width 0.5, side by side",
    "regularised, 2 times as long",
    "width 0.7",
    "restarts",
    "snapshot",
    "Prune2Edge",
    "Prune and Tune",
    "FreeTickets",
    "4 cut from one",
)


@dataclass(frozen=True)
class Entry:
    """A command of the queue.

    Attributes:
        name: Name shown and written to the account of hours.
        command: Module and arguments after `python -m`.
        after: Name of the entry that must be done before, `None` for none.
        data: Options of data sets that the command has.
        backend: Keras backend, the fastest for the command on a processor.
    """

    name: str
    command: tuple[str, ...]
    after: str | None = None
    data: tuple[str, ...] = ("cifar10", "fsdd")
    backend: str = "jax"


def tune(task):
    """Return an entry that tunes the weight decay of a task."""
    command = ("benchmarks.ensembles.compare", "--task", task, "--tune", "--seeds")
    return Entry(tuning(task), (*command, "100", "101"))


def tuning(task):
    return f"ensembles, {task}, weight decay"


def compare(task, seed, rows=(), part="all rows"):
    """Return an entry for rows of `ensembles/compare.py`, all rows by default."""
    command = ["benchmarks.ensembles.compare", "--task", task, "--seeds", str(seed)]
    return Entry(
        f"ensembles, {task}, seed {seed}, {part}",
        (*command, *(["--rows", *rows] if rows else [])),
        after=tuning(task),
    )


decisive = partial(compare, rows=DECISIVE, part="decisive rows")
equal_cost = partial(compare, rows=DECISIVE[:6], part="rows of equal cost")
further = partial(compare, rows=FURTHER, part="further rows")


def full_size(row, seed=0):
    """Return an entry for one row on all of CIFAR-10."""
    entry = compare(ALL_IMAGES, seed, [row], part=row)
    before = FULL_SIZE[row]
    return replace(entry, after=before and entry.name.replace(row, before))


ENTRIES = (
    *map(tune, TASKS),
    *(decisive(task, 0) for task in TASKS),
    *(decisive(task, seed) for seed in (1, 2) for task in TASKS),
    *(equal_cost(task, seed) for seed in (3, 4) for task in (NOISY, IMAGES)),
    Entry(
        "recipes and optimizers",
        ("benchmarks.callbacks.recipes",),
        data=(),
        backend="tensorflow",
    ),
    Entry(
        "default of pruning", ("benchmarks.callbacks.pruning_scope",), backend="torch"
    ),
    *(further(task, seed) for seed in (0, 1, 2) for task in TASKS),
    *map(full_size, FULL_SIZE),
    *(compare(task, seed) for seed in (0, 1, 2) for task in TASKS),
)


def main():
    arguments = parse()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if arguments.status:
        print(status(read_hours(), arguments.folder))
        return
    paths = {"cifar10": arguments.cifar10, "fsdd": arguments.fsdd}
    tried = set()
    while any(try_entry(entry, paths, arguments.folder, tried) for entry in ENTRIES):
        pass


def try_entry(entry, paths, folder, tried):
    """Run an entry if it is not done, free and possible; return whether it ran."""
    with held(entry, folder) as is_free:
        known = read_hours()
        is_ready = entry.after is None or is_done(entry.after, known)
        if entry in tried or not is_free or not is_ready or is_done(entry.name, known):
            return False
        tried.add(entry)
        print(f"{time.strftime('%H:%M')}  {entry.name}", flush=True)
        data = [f"--{name}={paths[name]}" for name in entry.data if paths[name]]
        account(entry, *run(entry, data, folder))
        return True


def run(entry, data, folder):
    """Run an entry with one thread; return the seconds it computed, and its code."""
    command = [sys.executable, "-m", *entry.command, *data]
    environment = {**os.environ, **dict.fromkeys(THREADS, "1")}
    environment["KERAS_BACKEND"] = entry.backend
    with (folder / "log.txt").open("a") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    seconds, is_paused = 0.0, False
    try:
        while process.poll() is None:
            if (folder / "pause").exists() != is_paused:
                is_paused = not is_paused
                process.send_signal(signal.SIGSTOP if is_paused else signal.SIGCONT)
            time.sleep(1.0)
            seconds += not is_paused
    finally:
        process.send_signal(signal.SIGCONT)
        process.terminate()
    return seconds, process.wait()


@contextmanager
def held(entry, folder):
    """Hold an entry against other queues; yields whether it was free."""
    with (folder / f"{entry.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def read_hours():
    return json.loads(HOURS.read_text()) if HOURS.exists() else {}


def is_done(name, known):
    return known.get(name, {}).get("done", False)


def account(entry, seconds, code):
    """Add the hours of an entry to the committed account."""
    with HOURS.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        known = json.loads(file.read() or "{}")
        before = known.get(entry.name, {}).get("hours", 0.0)
        hours = round(before + seconds / 3600, 3)
        known[entry.name] = {"hours": hours, "done": code == 0}
        file.truncate(0)
        file.write(json.dumps(known, indent=1) + "\n")


def status(known, folder):
    """Return what is done, what runs, and how long the rest takes, as text."""
    lines, times = [], []
    for entry in ENTRIES:
        found = known.get(entry.name, {})
        with held(entry, folder) as is_free:
            state = "done" if found.get("done") else "waits" if is_free else "runs"
        hours = found.get("hours", 0.0)
        times += [hours] if state == "done" else []
        lines.append(f"{state:<6}{hours:>6.2f} h  {entry.name}")
    left = len(ENTRIES) - len(times)
    mean = sum(times) / len(times) if times else float("nan")
    lines.append(f"{left} entries left, about {left * mean:.1f} hours of one core")
    return "\n".join(lines)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cifar10", type=Path, help="an .npz of CIFAR-10")
    parser.add_argument("--fsdd", type=Path, help="an .npz of spoken digits")
    parser.add_argument("--status", action="store_true", help="show, do not run")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    return parser.parse_args()


if __name__ == "__main__":
    main()
