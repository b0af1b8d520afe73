import dataclasses

import numpy as np
import pytest
from tiny_tflite import samples, tiny_tflite

from keras_micronets.edge import EarlyExit, EnsembleRunner, Manifest, combine
from keras_micronets.edge.combine import RULES
from keras_micronets.edge.early_exit import margin, run_early_exit
from keras_micronets.export import BundleMember, write_bundle
from keras_micronets.selection import choose_early_exit

WEIGHTS = [0.5, 0.1, 0.0, 0.4]
ORDER = (3, 0, 1, 2)


def drawn(n_members=4, n_samples=2000, seed=0, sharpness=2.0, classes=3):
    """Return members that agree in part, with confident and unsure predictions."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(1, n_samples, classes))
    logits = sharpness * (shared + rng.normal(size=(n_members, n_samples, classes)))
    logits *= rng.choice([0.2, 1, 5], size=(1, n_samples, 1))
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p = (p / p.sum(-1, keepdims=True)).astype("float32")
    y = (shared[0] + 0.3 * rng.normal(size=shared[0].shape)).argmax(-1)
    return p, y


def weights_for(rule):
    return WEIGHTS if rule == "weights" else None


def predict(
    p, early_exit, rule="mean", weights=None, temperature=1.0, task="multiclass"
):
    calls = np.zeros(p.shape[:2], int)

    def one(index, rows):
        calls[index, rows] += 1
        return p[index, rows]

    options = {"rule": rule, "weights": weights, "temperature": temperature}
    return *run_early_exit(one, p.shape[1], early_exit, **options), calls


@pytest.mark.parametrize("rule", RULES)
def test_without_a_threshold_the_class_is_that_of_all_members(rule):
    p, _ = drawn()
    weights = weights_for(rule)
    answers, n_run, _ = predict(p, EarlyExit(None, ORDER), rule, weights)
    together = combine(p, rule=rule, weights=weights)
    np.testing.assert_array_equal(answers.argmax(-1), together.argmax(-1))
    # The last of the order has no weight, and never runs.
    assert 1 <= n_run.min() < n_run.max() == (3 if weights else 4)
    everyone = n_run == n_run.max()
    np.testing.assert_allclose(answers[everyone], together[everyone], atol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_done_only_if_nothing_can_change_the_class(rule):
    """Let the skipped members predict the worst case: all for the second class."""
    p, _ = drawn(n_samples=500)
    weights = weights_for(rule)
    answers, n_run, calls = predict(p, EarlyExit(None, ORDER), rule, weights)
    second = answers.argsort(-1)[:, -2]
    worst = np.where(calls[..., None], p, np.eye(3, dtype="float32")[second])
    together = combine(worst, rule=rule, weights=weights)
    left_out = n_run < 4
    assert left_out.sum() > 10
    classes = answers.argmax(-1)[left_out]
    np.testing.assert_array_equal(together.argmax(-1)[left_out], classes)


@pytest.mark.parametrize("rule", RULES)
def test_result_combines_the_members_that_ran(rule):
    p, _ = drawn()
    weights = weights_for(rule)
    answers, n_run, calls = predict(p, EarlyExit(0.6, ORDER), rule, weights)
    np.testing.assert_array_equal(calls.sum(axis=0), n_run)
    assert calls.max() == 1
    np.testing.assert_allclose(answers.sum(axis=-1), 1, atol=1e-5)
    assert {*n_run} == {1, 2, 3} if rule == "weights" else {1, 2, 3, 4}
    for count in {*n_run}:
        first, rows = list(ORDER[:count]), n_run == count
        assert calls[first][:, rows].all()
        renormalised = None
        if weights:
            renormalised = np.divide(weights, np.sum(np.take(weights, first)))[first]
        expected = combine(p[first][:, rows], rule=rule, weights=renormalised)
        np.testing.assert_allclose(answers[rows], expected, atol=1e-6)


def test_threshold_by_hand():
    p = np.array(
        [
            [[0.8, 0.2, 0.0], [0.5, 0.4, 0.1], [0.5, 0.4, 0.1]],
            [[0.0, 1.0, 0.0], [0.9, 0.1, 0.0], [0.1, 0.8, 0.1]],
            [[0.0, 1.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]],
        ],
        "float32",
    )
    answers, n_run, _ = predict(p, EarlyExit(0.4, (0, 1, 2)))
    np.testing.assert_array_equal(n_run, [1, 2, 3])
    np.testing.assert_allclose(answers[1], [0.7, 0.25, 0.05], atol=1e-6)
    np.testing.assert_array_equal(answers.argmax(-1), [0, 0, 0])


@pytest.mark.parametrize(
    ("rule", "sure", "n_run"),
    [
        ("mean", 0.8, 2),
        ("mean", 0.7, 3),
        ("vote", 0.6, 2),
        ("logit", 0.99, 2),
        ("logit", 0.9, 3),
        ("weights", 0.9, 1),
        ("weights", 0.6, 2),
    ],
)
def test_members_that_cannot_change_the_class_do_not_run(rule, sure, n_run):
    p = np.full((3, 1, 2), [sure, 1 - sure], "float32")
    weights = [0.6, 0.3, 0.1] if rule == "weights" else None
    _, counts, _ = predict(p, EarlyExit(None, (0, 1, 2)), rule, weights)
    assert counts == [n_run]


def test_margin():
    np.testing.assert_allclose(margin(np.array([[0.1, 0.6, 0.3]])), [0.3])


def test_no_samples_and_one_member():
    answers, n_run, _ = predict(np.zeros((2, 0, 3), "float32"), EarlyExit(0.5, (0, 1)))
    assert (answers.shape, n_run.shape) == ((0, 3), (0,))
    answers, n_run, _ = predict(drawn(1)[0], EarlyExit(0.5, (0,)))
    assert (n_run == 1).all()


@pytest.mark.parametrize("rule", RULES)
def test_chosen_threshold_respects_the_tolerance(rule):
    p, y = drawn(n_samples=4000)
    weights = weights_for(rule)
    options = {"rule": rule, "weights": weights}
    saved = []
    for tolerance in (0, 0.01, 0.03):
        chosen = choose_early_exit(
            p, y, combination=rule, weights=weights, tolerance=tolerance
        )
        answers, n_run, _ = predict(p, chosen, **options)
        changed = answers.argmax(-1) != combine(p, **options).argmax(-1)
        assert changed.mean() <= tolerance
        assert chosen.saved == pytest.approx(1 - n_run.mean() / 4)
        assert (chosen.tolerance, chosen.samples) == (tolerance, 4000)
        saved.append(chosen.saved)
    assert 0 <= saved[0] < saved[1] < saved[2]


def test_tolerance_holds_on_average_for_other_samples():
    """Few samples suffice: conformal risk control."""
    tolerance, changed = 0.02, []
    for seed in range(100):
        p, y = drawn(n_samples=1200, seed=seed)
        chosen = choose_early_exit(p[:, :200], y[:200], tolerance=tolerance)
        answers, _, _ = predict(p[:, 200:], chosen)
        changed += [answers.argmax(-1) != combine(p[:, 200:]).argmax(-1)]
    assert 0.3 * tolerance < np.mean(changed) < 1.05 * tolerance


def test_too_few_samples_for_a_threshold():
    p, y = drawn(n_samples=99)
    assert choose_early_exit(p[:, :98], y[:98], tolerance=0.01).threshold is None
    p[:] = p[0]  # all alike: no class ever changes
    assert choose_early_exit(p, y, tolerance=0.01).threshold is not None
    assert choose_early_exit(p, y).threshold is None


def test_all_higher_margins_respect_the_tolerance():
    one = [[0.6, 0.4, 0.0], [0.05, 0.95, 0.0], [1.0, 0.0, 0.0]]
    p = np.repeat(np.array(one)[:, None], 100, axis=1)
    # The first is right with a margin of 0.2, but with the second it is 0.35 the other
    # way: a margin between these is met by the wrong class.
    chosen = choose_early_exit(p, np.full(100, 2), tolerance=0.1)
    assert (chosen.order, chosen.threshold) == ((0, 1, 2), None)


def test_order_is_by_accuracy_with_zero_weights_last():
    p, y = drawn()
    p[2] = np.eye(3)[y]
    accuracies = (p.argmax(-1) == y).mean(axis=1)
    order = choose_early_exit(p, y).order
    assert order == tuple(np.argsort(-accuracies))
    assert order[0] == 2
    weighted = choose_early_exit(p, y, combination="weights", weights=WEIGHTS)
    assert weighted.order[-1] == 2


@pytest.mark.parametrize("rule", ["mean", "logit", "weights"])
@pytest.mark.parametrize("temperature", [0.4, 3.0])
def test_margins_are_those_of_the_calibrated_combination(rule, temperature):
    p, y = drawn(n_samples=4000, sharpness=0.4)
    options = {"rule": rule, "weights": weights_for(rule), "temperature": temperature}
    chosen = choose_early_exit(
        p,
        y,
        combination=rule,
        weights=options["weights"],
        temperature=temperature,
        tolerance=0.02,
    )
    answers, n_run, calls = predict(p, chosen, **options)
    changed = answers.argmax(-1) != combine(p, **options).argmax(-1)
    assert changed.mean() <= 0.02
    assert chosen.saved == pytest.approx(1 - n_run.mean() / 4)
    # After one member its own probabilities, to the power of 1 / temperature.
    alone = n_run == 1
    first = np.maximum(p[chosen.order[0]][alone], 1e-3 if rule == "logit" else 1e-7)
    powers = first.astype("float64") ** (1 / temperature)
    powers /= powers.sum(-1, keepdims=True)
    np.testing.assert_allclose(answers[alone], powers, atol=1e-5)
    low, high = np.sort(powers, axis=-1)[:, -2:].T
    assert chosen.threshold - 1e-5 <= (high - low).min() < chosen.threshold + 0.05
    # Without the temperature, the same samples are done at another margin.
    plain = choose_early_exit(
        p, y, combination=rule, weights=options["weights"], tolerance=0.02
    )
    assert (plain.threshold > chosen.threshold) == (temperature > 1)
    np.testing.assert_array_equal(calls.sum(axis=0), n_run)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"combination": "vote", "temperature": 2.0}, "rule='vote'"),
        ({"tolerance": -0.1}, "tolerance=-0.1"),
        ({"tolerance": np.nan}, "tolerance=nan"),
        ({"combination": "median"}, "median"),
        ({"combination": "weights", "weights": [1.0]}, "4 non-negative weights"),
    ],
)
def test_bad_choices(options, message):
    with pytest.raises(ValueError, match=message):
        choose_early_exit(*drawn(n_samples=20), **options)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    members = [BundleMember(f"m{seed}", tiny_tflite(seed)) for seed in range(3)]
    return write_bundle(
        tmp_path_factory.mktemp("early") / "bundle",
        members,
        combination="weights",
        weights=[0.5, 0.3, 0.2],
        temperature=1.3,
        early_exit=EarlyExit(0.3, (2, 0, 1), tolerance=0.001, saved=0.4, samples=99),
    )


def test_runner(bundle):
    x = samples(60)
    with EnsembleRunner(bundle) as runner:
        options = runner.manifest.combination.arguments
        members = runner.predict_members(x)
        answers, n_run = runner.predict_early(x)
        assert {*n_run} == {1, 2, 3}
        expected, expected_counts, _ = predict(
            members, runner.manifest.early_exit, **options
        )
        np.testing.assert_array_equal(n_run, expected_counts)
        np.testing.assert_allclose(answers, expected, atol=1e-6)
        np.testing.assert_array_equal(runner.predict(x), answers)
        np.testing.assert_array_equal(runner.predict(x, early_exit=True), answers)
        np.testing.assert_array_equal(
            runner.predict(x, early_exit=False), combine(members, **options)
        )
        for i in range(5):
            one, n = runner.predict_early(x[i : i + 1])
            np.testing.assert_allclose(one[0], answers[i], atol=1e-6)
            assert n == n_run[i]


def test_early_exit_skips_members(bundle, monkeypatch):
    x = samples(60)
    with EnsembleRunner(bundle) as runner:
        n_run = runner.predict_early(x)[1]
        counts = dict.fromkeys(runner.members, 0)
        for member in runner.members:
            predict = member.predict

            def counted(x, member=member, predict=predict):
                counts[member] += len(x)
                return predict(x)

            monkeypatch.setattr(member, "predict", counted)
        runner.predict(x)
    by_order = [counts[runner.members[index]] for index in (2, 0, 1)]
    assert by_order == [60, (n_run >= 2).sum(), (n_run == 3).sum()]


def test_runner_without_early_exit(tmp_path, bundle):
    members = [BundleMember("m", tiny_tflite())]
    with EnsembleRunner(write_bundle(tmp_path / "bundle", members)) as runner:
        with pytest.raises(ValueError, match="with an early exit"):
            runner.predict_early(samples())
        runner.predict(samples())
    with (
        EnsembleRunner(bundle, members=[0]) as runner,
        pytest.raises(ValueError, match="all 3 members"),
    ):
        runner.predict_early(samples())


def test_manifest_stores_the_early_exit(bundle):
    manifest = Manifest.read(bundle)
    assert manifest.early_exit == EarlyExit(0.3, (2, 0, 1), 0.001, 0.4, 99)
    without = dataclasses.replace(manifest, early_exit=None)
    assert Manifest.from_json(without.to_json()).early_exit is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"threshold": 1.5},
        {"threshold": float("nan")},
        {"tolerance": -1.0},
        {"saved": 2.0},
        {"samples": -1},
        {"order": (0, 1)},
        {"order": (0, 1, 1)},
        {"order": (0, 1, 3)},
        {"order": (-1, 0, 1)},
    ],
)
def test_wrong_early_exit(bundle, wrong):
    manifest = Manifest.read(bundle)
    with pytest.raises(ValueError, match="Expected an early exit"):
        dataclasses.replace(
            manifest, early_exit=dataclasses.replace(manifest.early_exit, **wrong)
        )


def test_first_member_needs_a_positive_weight():
    with pytest.raises(ValueError, match="first member has a positive weight"):
        EarlyExit(0.5, (1, 0)).check(2, 3, weights=(1.0, 0.0))


def test_one_class():
    with pytest.raises(ValueError, match="two or more classes"):
        EarlyExit(0.5, (1, 0)).check(2, 1)
