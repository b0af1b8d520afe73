import threading

import numpy as np
import pytest
from tiny_tflite import SHAPE, samples, tiny_tflite

from keras_micronets.edge import EarlyExit, EnsembleRunner, Member
from keras_micronets.export import BundleMember, write_bundle

N_RELOADS = 50


def make(path, seeds, **options):
    members = [BundleMember(f"m{seed}", tiny_tflite(seed)) for seed in seeds]
    return write_bundle(path, members, **options)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """Bundles that differ in everything a prediction uses."""
    folder = tmp_path_factory.mktemp("reload")
    one = make(folder / "one", [0, 1])
    early = EarlyExit(0.4, (2, 1, 0))
    other = make(
        folder / "two.zip",
        [2, 3, 4],
        combination="vote",
        preprocessing={"mean": 0.5, "scale": 2.0},
        class_names=["x", "y", "z"],
        early_exit=early,
    )
    return one, other


def answer(bundle, x):
    with EnsembleRunner(bundle) as runner:
        return runner.predict(x)


def test_reload(bundles):
    x = samples()
    with EnsembleRunner(bundles[0]) as runner:
        runner.reload(bundles[1])
        np.testing.assert_array_equal(runner.predict(x), answer(bundles[1], x))
        assert [m.name for m in runner.members] == ["m2", "m3", "m4"]
        assert runner.class_names == ("x", "y", "z")
        assert runner.manifest.combination.rule == "vote"
        runner.reload()
        assert runner.class_names == ("x", "y", "z")


def test_reload_from_the_same_path(tmp_path):
    x, path = samples(), make(tmp_path / "bundle", [0])
    with EnsembleRunner(path) as runner:
        before = runner.predict(x)
        make(path, [1])
        np.testing.assert_array_equal(runner.predict(x), before)
        runner.reload()
        np.testing.assert_array_equal(runner.predict(x), answer(path, x))


def test_reload_keeps_the_options(bundles):
    with EnsembleRunner(bundles[0], members=[1]) as runner:
        runner.reload(bundles[1])
        assert [member.name for member in runner.members] == ["m3"]


def test_failed_reload_changes_nothing(bundles, tmp_path, monkeypatch):
    x = samples()
    damaged = make(tmp_path / "damaged", [5])
    (damaged / "00-m5.tflite").write_bytes(b"damage")
    shape = (5, 6, 2)
    members = [BundleMember("m", tiny_tflite(shape=shape))]
    other_shape = write_bundle(tmp_path / "shape", members)
    with EnsembleRunner(bundles[0]) as runner:
        before = runner.predict(x)
        for bad, message in (
            (damaged, "a modified '00-m5.tflite'"),
            (tmp_path / "nowhere", "Expected a bundle"),
            (other_shape, rf"same shapes.*{shape[0]}, 6, 2"),
        ):
            with pytest.raises(ValueError, match=message):
                runner.reload(bad)
            np.testing.assert_array_equal(runner.predict(x), before)
        with monkeypatch.context() as patch:
            patch.setattr(Member, "predict", fail)
            with pytest.raises(ValueError, match="cold"):
                runner.reload(bundles[1])
        runner.reload()  # the path is still that of the first
        np.testing.assert_array_equal(runner.predict(x), before)


def fail(*_):
    raise ValueError("cold")


def test_a_prediction_in_progress_finishes_on_the_old_bundle(bundles, monkeypatch):
    x = samples()
    began, swapped = threading.Event(), threading.Event()
    results = []
    with EnsembleRunner(bundles[0], num_threads=1) as runner:
        first, expected = runner.members[0], answer(bundles[0], x)
        predict = first.predict

        def slow(x):
            began.set()
            assert swapped.wait(20)
            return predict(x)

        monkeypatch.setattr(first, "predict", slow)
        thread = threading.Thread(target=lambda: results.append(runner.predict(x)))
        thread.start()
        assert began.wait(20)
        runner.reload(bundles[1])
        swapped.set()
        thread.join(20)
        np.testing.assert_array_equal(results[0], expected)
        np.testing.assert_array_equal(runner.predict(x), answer(bundles[1], x))


def test_threads_predict_during_reloads(bundles):
    x = samples(5)
    assert x.shape[1:] == SHAPE
    expected = [answer(bundle, x) for bundle in bundles]
    assert not np.allclose(*expected)
    stop, seen, errors = threading.Event(), [], []

    def predict_on(runner):
        try:
            while not stop.is_set():
                results = runner.predict(x)
                seen.append([np.array_equal(results, e) for e in expected].index(True))
        except BaseException as error:
            errors.append(error)

    with EnsembleRunner(bundles[0], num_threads=2) as runner:
        threads = [threading.Thread(target=predict_on, args=[runner]) for _ in range(3)]
        for thread in threads:
            thread.start()
        for i in range(N_RELOADS):
            runner.reload(bundles[(i + 1) % 2])
        stop.set()
        for thread in threads:
            thread.join(20)
    assert not errors
    assert {*seen} == {0, 1}
