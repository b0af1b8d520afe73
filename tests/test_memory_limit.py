import bisect
import subprocess
import sys

import numpy as np
import pytest
from tiny_tflite import CLASSES, samples, tiny_tflite

from keras_micronets.edge import EarlyExit, EnsembleRunner, Member
from keras_micronets.edge.ensemble import max_samples
from keras_micronets.export import BundleMember, write_bundle

MIB = 2**20
LARGE = (128, 128, 3)
#: Growth of the peak of resident bytes with a large batch, after a first ensemble of
#: the same members has run, so that LiteRT's code is in memory.
GROWTH = """
import sys
import numpy as np
from keras_micronets.edge import EnsembleRunner
from keras_micronets.edge.machine import peak_memory
limit, dtype = int(sys.argv[2]), sys.argv[3]
x = np.ones((200, 128, 128, 3), dtype)
EnsembleRunner(sys.argv[1], warm_up=True).close()
before = peak_memory()
runner = EnsembleRunner(sys.argv[1], num_threads=2, memory_limit=limit or None)
runner.predict(x)
print(peak_memory() - before)
"""


@pytest.fixture(scope="module")
def members():
    return [BundleMember(f"m{seed}", tiny_tflite(seed)) for seed in range(3)]


@pytest.fixture(scope="module")
def bundle(members, tmp_path_factory):
    early_exit = EarlyExit(0.3, (1, 0, 2))
    path = tmp_path_factory.mktemp("memory") / "bundle"
    return write_bundle(path, members, early_exit=early_exit)


def limit_for(n_samples, members, num_threads=1):
    """Return the smallest limit under which this many samples run at a time."""
    loaded = [Member(member.model) for member in members]
    return bisect.bisect_left(
        range(10**8), n_samples, key=lambda limit: _fits(limit, loaded, num_threads)
    )


def _fits(limit, members, num_threads):
    try:
        return max_samples(limit, members, num_threads)
    except ValueError:
        return 0


@pytest.mark.parametrize("n_samples", [1, 3, 16, 100])
def test_parts_change_nothing(bundle, members, n_samples, monkeypatch):
    x = samples(16)
    sizes = []
    predict = Member.predict
    with (
        EnsembleRunner(bundle) as whole,
        EnsembleRunner(
            bundle, memory_limit=limit_for(n_samples, members), num_threads=1
        ) as pieces,
    ):
        for options in ({"early_exit": False}, {}):
            expected = whole.predict(x, **options)
            np.testing.assert_allclose(
                pieces.predict(x, **options), expected, atol=1e-6
            )
        asked = pieces.predict_early(x)[1]
        np.testing.assert_array_equal(asked, whole.predict_early(x)[1])
        expected = whole.predict_members(x)
        monkeypatch.setattr(
            Member, "predict", lambda self, x: sizes.append(len(x)) or predict(self, x)
        )
        np.testing.assert_array_equal(pieces.predict_members(x), expected)
        assert max(sizes) == min(n_samples, 16)
        assert pieces.predict(np.zeros((0, *x.shape[1:]))).shape == (0, CLASSES)


def test_models_that_do_not_fit(bundle, members):
    models = sum(Member(member.model).memory for member in members)
    with pytest.raises(
        ValueError, match=rf"3 models, {models:,} bytes.*Received: 1,000 bytes"
    ):
        EnsembleRunner(bundle, memory_limit=1000)
    with pytest.raises(ValueError, match="arrays of one sample"):
        EnsembleRunner(bundle, memory_limit=models + 10)
    EnsembleRunner(bundle, memory_limit=limit_for(1, members, 3)).close()


def test_reload_respects_the_limit(bundle, members, tmp_path):
    more = [BundleMember(f"n{seed}", tiny_tflite(seed)) for seed in range(6)]
    larger = write_bundle(tmp_path / "larger", more)
    limit = limit_for(1, members)
    with EnsembleRunner(bundle, memory_limit=limit, num_threads=1) as runner:
        with pytest.raises(ValueError, match="Expected a memory limit"):
            runner.reload(larger)
        assert len(runner.members) == 3


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    model = tiny_tflite(shape=LARGE)
    members = [BundleMember(f"m{i}", model) for i in range(2)]
    return write_bundle(tmp_path_factory.mktemp("large") / "bundle", members)


def growth(bundle, limit, dtype):
    command = [sys.executable, "-c", GROWTH, str(bundle), str(limit), dtype]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells in this unit")
@pytest.mark.parametrize("dtype", ["uint8", "float64"])
def test_resident_memory_respects_the_limit(large, dtype):
    limit = 32 * MIB
    assert limit / 2 < growth(large, limit, dtype) < limit
    if dtype == "uint8":
        assert growth(large, 0, dtype) > 80 * MIB
