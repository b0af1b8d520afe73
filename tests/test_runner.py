import re

import numpy as np
import pytest
from tiny_tflite import CLASSES, SHAPE, samples, tiny_tflite

from keras_micronets.edge import EarlyExit, EnsembleRunner, Member, bench, combine
from keras_micronets.export import BundleMember, write_bundle

NAMES = ("first", "second", "third")


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(1).integers(0, 256, (9, *SHAPE), "uint8")


@pytest.fixture(scope="module")
def members():
    return [BundleMember(n, tiny_tflite(seed)) for seed, n in enumerate(NAMES)]


@pytest.fixture(scope="module")
def bundle(members, tmp_path_factory):
    return write_bundle(
        tmp_path_factory.mktemp("runner") / "bundle",
        members,
        class_names=["x", "y", "z"],
        preprocessing={"mean": [127.5, 100.0], "scale": 64.0},
    )


@pytest.fixture
def runner(bundle):
    with EnsembleRunner(bundle) as runner:
        yield runner


def by_hand(members, x):
    ready = (x.astype("float32") - np.float32([127.5, 100])) / np.float32(64)
    return np.stack([Member(m.model).predict(ready) for m in members])


def test_members_and_ensemble(runner, members, x):
    expected = by_hand(members, x)
    np.testing.assert_array_equal(runner.predict_members(x), expected)
    probabilities = runner.predict(x)
    assert probabilities.dtype == "float32"
    assert probabilities.shape == (len(x), CLASSES)
    np.testing.assert_array_equal(probabilities, combine(expected))
    assert runner.class_names == ("x", "y", "z")


@pytest.mark.parametrize("rule", ["vote", "weights"])
def test_combination_of_the_manifest(tmp_path, members, rule):
    weights = [0.5, 0.3, 0.2] if rule == "weights" else None
    x = samples()
    bundle = write_bundle(
        tmp_path / "bundle", members, combination=rule, weights=weights
    )
    with EnsembleRunner(bundle) as runner:
        expected = combine(runner.predict_members(x), rule=rule, weights=weights)
        np.testing.assert_array_equal(runner.predict(x), expected)


def test_threads_change_nothing(bundle, runner, x):
    expected = runner.predict(x, parallel=False)
    np.testing.assert_array_equal(runner.predict(x), expected)
    with EnsembleRunner(bundle, num_threads=1) as one:
        np.testing.assert_array_equal(one.predict(x), expected)


def test_some_members(bundle, runner, x):
    expected = runner.predict_members(x)[[2, 0]]
    with EnsembleRunner(bundle, members=[2, 0]) as some:
        assert [member.name for member in some.members] == ["third", "first"]
        np.testing.assert_array_equal(some.predict_members(x), expected)
        with pytest.raises(ValueError, match=r"all 3 members.*Received: 2"):
            some.predict(x)


@pytest.mark.parametrize("indices", [[], [3], [-1], [0, 0]])
def test_member_indices_out_of_range(bundle, indices):
    with pytest.raises(ValueError, match=r"from 0 to 2.*Received: members="):
        EnsembleRunner(bundle, members=indices)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_other_dtypes(runner, x, dtype):
    np.testing.assert_array_equal(runner.predict(x.astype(dtype)), runner.predict(x))


def test_no_samples(runner):
    assert runner.predict(np.zeros((0, *SHAPE))).shape == (0, CLASSES)


@pytest.mark.parametrize(
    "x",
    [np.zeros(SHAPE), np.float32(0), np.zeros((1, *SHAPE), "U1"), [[["a"]]]],
)
def test_wrong_input(runner, x):
    with pytest.raises(ValueError, match=r"samples, 6, 6, 2\). Received: shape"):
        runner.predict(x)


def test_input_that_is_not_finite(runner, x):
    with pytest.raises(ValueError, match="Expected finite"):
        runner.predict(np.full(x.shape, np.nan))


def test_a_closed_runner_says_so(bundle, x):
    for options in ({}, {"num_threads": 1}):
        runner = EnsembleRunner(bundle, **options)
        runner.close()
        runner.close()
        assert runner.class_names == ("x", "y", "z")
        for name in ("predict", "predict_early", "predict_members", "spread", "score"):
            with pytest.raises(ValueError, match=r"open runner.*a closed one"):
                getattr(runner, name)(x)
        for call in (lambda: runner.preprocess(x), runner.reload):  # noqa: B023
            with pytest.raises(ValueError, match="open runner"):
                call()


def test_closing_lets_predictions_finish(bundle, runner, x, monkeypatch):
    expected, closing = runner.predict(x), EnsembleRunner(bundle, num_threads=3)

    def submit(work):
        closing.close()
        return closing_submit(work)

    closing_submit = closing._pool.submit
    monkeypatch.setattr(closing._pool, "submit", submit)
    np.testing.assert_array_equal(closing.predict(x), expected)


def test_not_a_bundle(tmp_path):
    with pytest.raises(ValueError, match="Expected a bundle"):
        EnsembleRunner(tmp_path / "nowhere")


def test_error_of_a_member_is_raised(runner, x, monkeypatch):
    def fail(x):
        raise ValueError("no answer")

    for member in runner.members:
        with monkeypatch.context() as patch:
            patch.setattr(member, "predict", fail)
            with pytest.raises(ValueError, match="no answer"):
                runner.predict(x)
    runner.predict(x)


def test_warm_up(bundle, monkeypatch):
    inputs = []
    predict = Member.predict
    monkeypatch.setattr(
        Member, "predict", lambda self, x: inputs.append(x) or predict(self, x)
    )
    EnsembleRunner(bundle).close()
    assert not inputs
    EnsembleRunner(bundle, warm_up=True).close()
    assert [x.shape for x in inputs] == [(1, *SHAPE)] * 3


def test_bench(runner):
    report = bench(runner, repeats=30)
    assert [*report.members] == [*NAMES]
    assert [*report.ensemble] == ["one by one", "threads"]
    for times in [*report.members.values(), *report.ensemble.values()]:
        assert 0 < times[0] <= times[1] <= times[2] < 1000
    together, alone = report.ensemble["one by one"], report.members.values()
    assert together[0] > max(times[0] for times in alone)
    assert report.throughput > 1
    assert report.peak_memory is None or 2**20 < report.peak_memory < 2**36
    lines = str(report).splitlines()
    names = [*NAMES, "ensemble, one by one", "ensemble, threads"]
    assert [line.split("  ")[0].strip() for line in lines[1:6]] == names
    assert all(re.search(r"(  +\d+\.\d{3}){3}$", line) for line in lines[1:6])
    assert "throughput" in str(report)


def test_bench_needs_repeats(runner):
    with pytest.raises(ValueError, match="repeats=0"):
        bench(runner, repeats=0)


def test_bench_of_an_early_exit(tmp_path, members):
    bundle = write_bundle(
        tmp_path / "bundle", members, early_exit=EarlyExit(0.0, (0, 1, 2))
    )
    with EnsembleRunner(bundle) as runner:
        assert "early exit after 1" in bench(runner, repeats=1).ensemble
