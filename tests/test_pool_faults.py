"""Processes that are killed, many at once, and a disk that is full."""

import errno
import importlib
import os
from contextlib import suppress
from pathlib import Path

import pytest
from tiny_keras import compiled, data, dense_model, fit
from tiny_tflite import samples, tiny_tflite

from keras_micronets import LearnerPool
from keras_micronets.callbacks import Cycle, LearnerCheckpoint, LearnerCycles

X, _ = data(8)


@pytest.fixture
def workers():
    return importlib.import_module("benchmarks.learners.workers")


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.parametrize("seed", [100, 101])
def test_runs_that_are_killed_add_each_learner_exactly_once(tmp_path, workers, seed):
    found = workers.kill_round(tmp_path, seed)
    assert found["exactly_once"], found
    assert found["kills"] > 0


@pytest.mark.slow
@pytest.mark.tensorflow
def test_eight_processes_add_two_hundred_learners(tmp_path, workers):
    found = workers.add_at_once(tmp_path)
    assert (found["learners"], found["damaged"]) == (200, 0)


@pytest.fixture
def pool(tmp_path):
    (tmp_path / "tiny.tflite").write_bytes(tiny_tflite())
    pool = LearnerPool(tmp_path / "pool")
    pool.add_tflite(tmp_path / "tiny.tflite", name="first")
    return pool


class FullDisk:
    """Let a number of files be opened for writing in a folder, and no more.

    The last one is created and stays empty, as on a disk that is full.
    """

    def __init__(self, folder, n_files):
        self.folder, self.left = str(folder), n_files
        self.is_full = False

    def __call__(self, function):
        def opened(path, mode="r", *args, **kwargs):
            is_new = set(mode) & set("wax+") and str(path).startswith(self.folder)
            if is_new and self.left <= 0:
                self.is_full = True
                os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            self.left -= bool(is_new)
            return function(path, mode, *args, **kwargs)

        return opened


def add(pool):
    pool.add_tflite(pool.path.with_name("tiny.tflite"), name="second")


def predict(pool):
    assert pool.predict(samples(), verbose=0).shape[0] == len(pool)


def checkpoint(pool):
    fit(compiled(dense_model()), LearnerCheckpoint(pool), epochs=2)


def cycles(pool):
    cycle = Cycle(initial="parent")
    fit(compiled(dense_model()), LearnerCycles(pool, 2, cycle), epochs=2)


@pytest.mark.filterwarnings("ignore:Expected a trained parent")
@pytest.mark.parametrize("n_files", range(6))
@pytest.mark.parametrize(
    "act",
    [
        add,
        predict,
        pytest.param(checkpoint, marks=pytest.mark.slow),
        pytest.param(cycles, marks=pytest.mark.slow),
    ],
)
def test_a_full_disk_leaves_the_pool_as_it_was(pool, monkeypatch, act, n_files):
    disk = FullDisk(pool.path, n_files)
    monkeypatch.setattr("builtins.open", disk(open))
    monkeypatch.setattr("io.open", disk(open))
    with suppress(OSError):
        act(pool)
    monkeypatch.undo()
    again = LearnerPool(pool.path)
    assert again.damaged == []
    assert [x.name for x in pool] == [x.name for x in again]
    assert again["first"] == pool["first"]
    for learner in again:
        learner.load()
    assert not list(Path(pool.path).rglob(".partial-*"))
    if act is not add or "second" not in again:
        act(again)
    assert not LearnerPool(pool.path).damaged
