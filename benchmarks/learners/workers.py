"""Processes that train into a pool, add to it and are killed."""

import json
import multiprocessing
import random
import shutil
import threading
import time
from pathlib import Path

import h5py
import keras
import numpy as np
import tensorflow  # noqa: F401 - loaded once, before the processes are forked

from keras_micronets import LearnerPool
from keras_micronets.callbacks import LearnerCheckpoint
from keras_micronets.learners.runs import Runs

EPOCHS = 24


def context():
    """Return a context whose processes are forked from one that has loaded Keras."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload([__name__])
    return found


def model():
    layers = [keras.layers.Dense(8), keras.layers.Dense(3, activation="softmax")]
    made = keras.Sequential([keras.Input((8,)), *layers])
    made.compile("adam", "sparse_categorical_crossentropy")
    return made


def train(root: str, key: str) -> None:
    """Train into a pool, or resume, with a backup of each epoch."""
    backup = Path(root, f"backup-{key}")
    _discard_half_a_backup(backup)
    random = np.random.default_rng(0)
    model().fit(
        random.normal(size=(40, 8)).astype("float32"),
        random.integers(0, 3, 40),
        epochs=EPOCHS,
        verbose=0,
        callbacks=[
            LearnerCheckpoint(LearnerPool(Path(root, "pool"))),
            keras.callbacks.BackupAndRestore(backup, double_checkpoint=True),
        ],
    )


def _discard_half_a_backup(backup):
    """Remove what Keras leaves if it is killed in a backup, and cannot open then.

    It has no copy of the first backup: that run begins at its first epoch again.
    """
    path = backup / "training_metadata.json"
    copy = path.with_name(path.name + ".bkp")
    if path.exists() and not path.read_text():
        copy.replace(path) if copy.exists() else path.unlink()
    weights = backup / "latest.weights.h5"
    if weights.exists() and not weights.with_name(weights.name + ".bkp").exists():
        try:
            h5py.File(weights).close()
        except OSError:
            shutil.rmtree(backup)


def add(root: str, n_learners: int) -> None:
    """Add learners to a pool."""
    pool, learner = LearnerPool(Path(root, "pool")), model()
    for _ in range(n_learners):
        pool.add(learner)


def kill_round(root: Path, seed: int, *, n_kills: int = 4) -> dict:
    """Train three runs into one pool at once, each killed at random and resumed.

    The third run was begun and killed before the others begin.

    Args:
        root: A new folder.
        seed: Integer, for the times of the kills.
        n_kills: Integer, kills of each run. Defaults to `4`.

    Returns:
        Counts of learners and kills, and `exactly_once`: whether the pool has each
        epoch of each run once, and nothing is damaged.
    """
    rng = random.Random(seed)
    times = {key: [rng.uniform(0.5, 4.0) for _ in range(n_kills)] for key in "abc"}
    killed: list[bool] = [_life(root, "c", times["c"].pop())]
    lives = [
        threading.Thread(target=_lives, args=(root, key, times[key], killed))
        for key in "abc"
    ]
    for thread in lives:
        thread.start()
    for thread in lives:
        thread.join()
    pool = LearnerPool(root / "pool")
    epochs = {learner.run: [] for learner in pool}
    for learner in pool:
        learner.verify()
        epochs[learner.run].append(learner.epoch)
    complete = [found == list(range(1, EPOCHS + 1)) for found in epochs.values()]
    return {
        "seed": seed,
        "kills": sum(killed),
        "learners": len(pool),
        "expected": 3 * EPOCHS,
        "damaged": len(pool.damaged),
        "exactly_once": complete == [True] * 3 and not pool.damaged,
    }


def _lives(root, key, times, killed):
    for seconds in [*times, 300]:
        if _is_complete(root, key):
            return
        killed.append(_life(root, key, seconds))
        if not killed[-1]:
            return


def _is_complete(root, key):
    """Return whether `fit` has ended, also if its process was killed after that."""
    runs = Runs(root / "pool")
    records = map(runs.read, runs.names())
    backup = str(root / f"backup-{key}")
    return any(x.get("backup") == backup and x["finished"] for x in records)


def _life(root, key, seconds):
    """Train for a time at most, and return whether the process was killed then."""
    process = context().Process(target=train, args=(str(root), key))
    process.start()
    process.join(seconds)
    process.kill()
    process.join()
    return process.exitcode != 0


def add_at_once(root: Path, n_processes: int = 8, n_learners: int = 200) -> dict:
    """Add learners in several processes, and count what the pool has."""
    each = n_learners // n_processes
    start = time.perf_counter()
    processes = [
        context().Process(target=add, args=(str(root), each))
        for _ in range(n_processes)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    seconds = time.perf_counter() - start
    pool = LearnerPool(root / "pool")
    for learner in pool:
        learner.verify()
    return {
        "processes": n_processes,
        "learners": len(pool),
        "expected": each * n_processes,
        "damaged": len(pool.damaged),
        "seconds": round(seconds, 1),
    }


def fill(path: Path, model_file: Path, n_learners: int) -> None:
    """Make a pool without an index, of copies of one file in runs of ten epochs."""
    pool = LearnerPool(path)
    first = pool.add_tflite(model_file, name="first")
    values, content = first.to_dict(exclude=("directory",)), first.path.read_bytes()
    for i in range(n_learners):
        values["name"] = f"run-{i // 10:03d}-epoch-{i % 10 + 1:04d}"
        values |= {"run": f"run-{i // 10:03d}", "epoch": i % 10 + 1, "seed": i // 10}
        names = ("accuracy", "loss", "val_accuracy", "val_loss")
        values["metrics"] = {name: i / n_learners for name in names}
        folder = path / "learners" / values["name"]
        folder.mkdir()
        (folder / first.file).write_bytes(content)
        (folder / "learner.json").write_text(json.dumps(values, indent=2))
    pool.remove("first")
    (path / "learners.index").unlink()
