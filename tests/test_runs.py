"""Runs of a pool: reserved when `fit` begins, and found when it resumes."""

import json
import os
import subprocess
import sys

import keras
import pytest
from tiny_keras import Interrupt, Subclassed, compiled, data, dense_model, fit
from tiny_tflite import tiny_tflite

from keras_micronets import LearnerPool, layers
from keras_micronets.callbacks import Cycle, LearnerCheckpoint, LearnerCycles
from keras_micronets.learners import runs
from keras_micronets.learners.runs import Runs, begin_run


@pytest.fixture
def pool(tmp_path):
    (tmp_path / "tiny.tflite").write_bytes(tiny_tflite())
    return LearnerPool(tmp_path / "pool")


def begin(pool, run=None, *, epoch=0, backup=None, role="LearnerCheckpoint-0"):
    return begin_run(pool, run, role=role, epoch=epoch, backup=backup)


def add(pool, **metadata):
    return pool.add_tflite(pool.path.with_name("tiny.tflite"), **metadata)


def names(pool):
    return [learner.name for learner in pool]


def by_another_process(pool, name, process=None, **changes):
    """Record a run as that of another process: one that runs, or one that has ended."""
    path = pool.path / "runs" / f"{name}.json"
    record = json.loads(path.read_text())
    start = runs._start(process.pid) if process else "1"
    record |= {"pid": process.pid if process else os.getppid(), "started": start}
    path.write_text(json.dumps(record | changes))


@pytest.fixture
def process():
    """Return another process that runs."""
    if not os.path.exists("/proc/self/stat"):
        pytest.skip("needs the start of a process from /proc")
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.communicate(b"\n")


def test_a_run_is_reserved_before_its_first_learner(pool):
    assert [begin(pool), begin(LearnerPool(pool.path))] == ["run-000", "run-001"]
    assert (pool.next_run(), pool.last_run()) == ("run-002", "run-001")
    assert len(pool) == 0


def test_numbers_of_learners_are_not_used_again(pool):
    add(pool, name="run-004-epoch-0001")  # by hand, in no run
    (pool.path / "learners" / "run-1000-epoch-0001").mkdir()  # damaged
    with pytest.warns(UserWarning, match="run-1000-epoch-0001"):
        assert begin(pool) == "run-1001"
    assert begin(pool) == "run-1002"


def test_another_process_took_the_number_in_the_meantime(pool):
    reserve = Runs(pool.path).reserve
    assert reserve(["run-000"]) == "run-000"
    assert reserve(["run-000", "run-001"]) == "run-001"


def test_a_run_is_found_by_the_folder_of_its_backup(pool, process):
    ours = begin(pool, backup="ours")
    theirs = begin(pool, backup="theirs")
    last = begin(pool)
    assert begin(pool, epoch=3, backup="ours") == ours
    assert begin(pool, epoch=3, backup="theirs") == theirs
    assert begin(pool, epoch=3, backup="ours", role="LearnerCycles-0") == "run-003"
    assert begin(pool, epoch=3, backup="of an earlier version") == "run-004"
    by_another_process(pool, ours, process)
    assert begin(pool, epoch=3, backup="ours") == "run-005"  # a copy of the backup
    by_another_process(pool, theirs)
    assert begin(pool, epoch=3, backup="theirs") == theirs
    assert last == "run-002"


def test_a_run_that_was_killed_before_its_first_backup_is_found(pool, process):
    first = begin(pool, backup="b")
    assert begin(pool, backup="b") == first
    by_another_process(pool, first)
    assert begin(pool, backup="b") == first
    by_another_process(pool, first, process)
    assert begin(pool, backup="b") == "run-001"
    Runs(pool.path).finish("run-001")
    by_another_process(pool, first, host="another")
    assert begin(pool, backup="b") == "run-002"


def test_without_a_backup_a_run_that_ends_at_the_epoch_continues(pool):
    ours, theirs = begin(pool), begin(pool)
    add(pool, run=ours, epoch=2)
    add(pool, run=theirs, epoch=5)
    assert begin(pool, epoch=2) == ours
    by_another_process(pool, ours)
    assert begin(pool, epoch=5) == theirs  # that of this process
    assert begin(pool, epoch=1) == "run-002"


def test_a_run_of_an_earlier_version_continues(pool):
    add(pool, run="run-000", epoch=2)
    assert begin(pool, epoch=2) == "run-000"
    assert begin(pool, epoch=1) == "run-001"


@pytest.mark.parametrize("content", ["", "{", "[1]", "{}", '{"pid": 1}'])
def test_a_damaged_record_is_a_name_that_is_taken(pool, content):
    begin(pool, backup="b")
    (pool.path / "runs" / "run-000.json").write_text(content)
    assert begin(pool, backup="b") == "run-001"
    assert begin(pool, "run-000") == "run-000"


def test_a_name_that_another_process_trains_is_rejected(pool, process):
    begin(pool, "mine")
    assert begin(pool, "mine") == "mine"
    by_another_process(pool, "mine", process)
    with pytest.raises(ValueError, match=f"'mine', which process {process.pid} trains"):
        begin(pool, "mine")
    by_another_process(pool, "mine")  # its id was reused
    assert begin(pool, "mine") == "mine"


@pytest.mark.parametrize("epoch", [0, 1, 3])
def test_an_interrupted_run_resumes_while_another_trains(pool, tmp_path, epoch):
    def train(folder, *others):
        callbacks = [
            LearnerCheckpoint(LearnerPool(pool.path), every=2),
            keras.callbacks.BackupAndRestore(tmp_path / folder),
        ]
        fit(compiled(dense_model()), *callbacks, *others)

    with pytest.raises(InterruptedError):
        train("a", Interrupt(epoch))
    train("b")
    train("a")
    train("a")
    pool.refresh()
    expected = [f"run-00{run}-epoch-000{n}" for run in range(3) for n in (2, 4)]
    assert names(pool) == expected


def test_two_callbacks_of_one_fit_have_two_runs(pool, tmp_path):
    def train(*others):
        callbacks = [
            LearnerCheckpoint(pool, every=2),
            LearnerCheckpoint(pool, keep="best", monitor="loss"),
            LearnerCycles(pool, 2, Cycle()),
            keras.callbacks.BackupAndRestore(tmp_path / "backup"),
        ]
        fit(compiled(dense_model()), *callbacks, *others)

    with pytest.raises(InterruptedError):
        train(Interrupt(3))
    train()
    found = [learner.run for learner in pool]
    assert found == ["run-000"] * 2 + ["run-001"] + ["run-002"] * 2


def test_a_learner_of_another_run_does_not_take_the_place_of_ours(pool):
    add(pool, name="mine-epoch-0001")
    checkpoint = LearnerCheckpoint(pool, run="mine")
    fit(compiled(dense_model()), checkpoint, epochs=1)
    fit(compiled(dense_model()), checkpoint, epochs=1)
    assert names(pool) == ["mine-epoch-0001", "mine-epoch-0001-2"]
    assert pool[1].run == "mine"


@pytest.mark.parametrize("run", ["../a", "a" * 240, "nul", ""])
@pytest.mark.parametrize("callback", [LearnerCheckpoint, LearnerCycles])
def test_a_name_that_is_no_file_name_is_rejected_before_training(pool, callback, run):
    with pytest.raises(ValueError, match="Expected a name"):
        fit(compiled(dense_model()), Interrupt(0), callback(pool, 1, run=run))


class NotRegistered(keras.layers.Layer):
    def __init__(self, width):
        super().__init__()
        self.width = width

    def call(self, inputs):
        return inputs


class Odd(keras.layers.Layer):
    """A layer that Keras saves and does not find again."""

    def call(self, inputs):
        return inputs


@pytest.mark.parametrize("layer", [lambda: NotRegistered(3), Odd])
@pytest.mark.parametrize("callback", [LearnerCheckpoint, LearnerCycles])
def test_a_model_that_cannot_be_saved_is_rejected_before_training(
    pool, callback, layer
):
    head = keras.layers.Dense(3, activation="softmax")
    model = compiled(keras.Sequential([keras.Input((8,)), layer(), head]))
    weights = model.get_weights()
    with pytest.raises(ValueError, match="Expected a model that Keras can save"):
        fit(model, callback(pool, 1))
    assert all(
        (a == b).all() for a, b in zip(weights, model.get_weights(), strict=True)
    )
    assert not list(pool.path.glob(".partial-*"))


def test_a_model_that_loses_its_quantizers_is_rejected_before_training(pool):
    model = Subclassed()
    model(data()[0])
    fit(compiled(model), LearnerCheckpoint(pool), epochs=1)
    layers.prepare(model, quantize=True)
    with pytest.raises(ValueError, match="Expected a sequential or functional model"):
        fit(compiled(model), LearnerCheckpoint(pool), epochs=1)
    assert len(pool) == 1


def test_a_model_is_tried_once_and_trains_the_same(pool, monkeypatch):
    tried, save = [], keras.Model.save

    def count(model, path, *args, **kwargs):
        tried.append("trial" in str(path))
        return save(model, path, *args, **kwargs)

    monkeypatch.setattr(keras.Model, "save", count)
    fit(compiled(dense_model()), LearnerCheckpoint(pool), epochs=3)
    assert tried == [True, False, False, False]
