"""A process that is killed at any time leaves a valid pool."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_keras import assert_zeros_where_masked, data, dense_model

from keras_micronets import LearnerPool

N_KILLS, EPOCHS, EPOCHS_A_LIFE = 25, 120, 4
SCRIPT = Path(__file__).with_name("victim.py")
X, _ = data()


class Victims:
    """Child processes of one warm process, each started by the name of a function."""

    def __init__(self, errors):
        self.errors = errors
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )

    def start(self, function, *arguments):
        command = json.dumps([function, arguments], default=str)
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self.read("pid")

    def read(self, word):
        """Wait for a line that begins with a word, and return its number."""
        for line in self.process.stdout:
            found, _, number = line.strip().partition(" ")
            if found == word:
                return int(number or 0)
            assert found == "training", f"{line!r}: {self.log()}"
        raise AssertionError(self.log())

    def log(self):
        return Path(self.errors.name).read_text()[-3000:]

    def close(self):
        os.killpg(self.process.pid, signal.SIGKILL)  # a child may wait for it
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture(scope="module")
def victims(tmp_path_factory):
    with open(tmp_path_factory.mktemp("victims") / "errors", "w+") as errors:
        victims = Victims(errors)
        yield victims
        victims.close()


def check_pool(path, known):
    """Open a pool and load its new learners; return all their hashes."""
    pool = LearnerPool(path)  # a damaged learner is a warning, and so an error here
    assert pool.damaged == []
    assert not list((path / "learners").glob(".*"))
    for learner in pool:
        if learner.name in known:
            assert learner.sha256 == known[learner.name]
        else:
            model = learner.load()
            assert_zeros_where_masked(model)
            assert np.isfinite(model(X, training=False)).all()
    hashes = {learner.name: learner.sha256 for learner in pool}
    assert known.keys() <= hashes.keys()
    return hashes


OF_THE_LEARNER = {
    "before the folder": False,
    "before the model": False,
    "within the model": False,
    "after the model": False,
    "before the hash": False,
    "before the metadata": False,
    "within the metadata": False,
    "after the metadata": False,
    "before the rename": False,
    "after the rename": True,
    "after all": True,
}


@pytest.mark.parametrize(("point", "is_there"), OF_THE_LEARNER.items())
@pytest.mark.slow
def test_a_learner_is_added_completely_or_not_at_all(
    tmp_path, victims, point, is_there
):
    first = LearnerPool(tmp_path / "pool").add(dense_model(), name="first")
    victims.start("add", tmp_path, point)
    assert victims.read("status") == -signal.SIGKILL
    pool = LearnerPool(tmp_path / "pool")
    assert pool.damaged == []
    assert pool["first"] == first
    assert [learner.name for learner in pool] == ["first", "second"][: 1 + is_there]
    assert not list((tmp_path / "pool" / "learners").glob(".*"))
    if not is_there:
        pool.add(dense_model(seed=1), name="second")
    assert pool.predict(X, verbose=0).shape == (2, len(X), 3)


@pytest.mark.parametrize(
    "point",
    ["before the pool", "within the pool", "within the marker", "after the marker"],
)
def test_a_pool_is_created_again_after_a_kill(tmp_path, victims, point):
    victims.start("add", tmp_path, point)
    assert victims.read("status") == -signal.SIGKILL
    pool = LearnerPool(tmp_path / "pool")
    assert len(pool) == 0
    pool.add(dense_model(), name="first")
    assert len(LearnerPool(tmp_path / "pool")) == 1


@pytest.mark.slow
def test_a_run_that_is_killed_repeatedly_completes(tmp_path, victims):
    rng = random.Random(0)
    known, seen, epoch_seconds = {}, [0], 0.1
    for _ in range(N_KILLS):
        pid = victims.start("train", tmp_path, EPOCHS, EPOCHS_A_LIFE)
        assert victims.read("training") == 0
        for _ in range(rng.randrange(EPOCHS_A_LIFE)):
            start = time.monotonic()
            victims.read("training")
            epoch_seconds = time.monotonic() - start
        time.sleep(rng.uniform(0, epoch_seconds))
        os.kill(pid, signal.SIGKILL)
        assert victims.read("status") == -signal.SIGKILL  # and not complete yet
        known = check_pool(tmp_path / "pool", known)
        seen.append(len(known))
    assert seen[-1] > 10  # the kills came while learners were being added
    victims.start("train", tmp_path, EPOCHS)
    assert victims.read("status") == 0
    check_pool(tmp_path / "pool", known)

    pool = LearnerPool(tmp_path / "pool")
    assert [x.name for x in pool] == [
        f"run-epoch-{n:04d}" for n in range(1, EPOCHS + 1)
    ]
    sparsities = [learner.sparsity for learner in pool]
    assert sparsities == sorted(sparsities)
    assert sparsities[-1] == 0.75
    assert [learner.quantized for learner in pool] == [
        learner.epoch > 0.3 * EPOCHS for learner in pool
    ]
    assert not (tmp_path / "backup").exists()
