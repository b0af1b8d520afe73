"""The scale of the members' spread, beside slow versions and known distributions."""

import json

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from sklearn.linear_model import LinearRegression

import keras_micronets as kmn
from keras_micronets.edge import EnsembleRunner, Manifest, SpreadScale, combine, spread
from keras_micronets.selection import Targets, choose_spread_scale
from keras_micronets.selection.spread_scale import (
    MIN_FLOOR,
    fit_variance,
    gaussian_loss,
)

L = keras.layers


def drawn(factor, floor, n=4000, n_outputs=1, seed=0):
    """Members whose errors have `sqrt((factor * spread)² + floor²)`, and targets."""
    rng = np.random.default_rng(seed)
    y = rng.normal(size=(n, n_outputs))
    deviations = rng.exponential(0.2, (n, n_outputs))
    error = rng.normal(size=y.shape) * np.hypot(factor * deviations, floor)
    return np.stack([y + error - deviations, y + error + deviations]), y


def slow_loss(factor, floor, variances, squares):
    """The mean negative logarithm of the normal density, one sample after another."""
    total = 0.0
    for variance, square in zip(variances, squares, strict=True):
        deviation = (factor**2 * variance + floor**2) ** 0.5
        density = np.exp(-square / deviation**2 / 2) / (deviation * (2 * np.pi) ** 0.5)
        total -= np.log(density)
    return total / len(squares)


class TestSlowVersions:
    @settings(max_examples=60)
    @given(
        npst.arrays("float64", 9, elements=st.just(0.0) | st.floats(1e-8, 4)),
        npst.arrays("float64", 9, elements=st.floats(0, 4)),
    )
    def test_no_other_factor_and_floor_is_better(self, variances, squares):
        factor, floor = fit_variance(variances, squares)
        assert factor >= 0
        assert floor >= MIN_FLOOR * (1 - 1e-9)

        def loss(factors, floors):
            v = factors[..., None] ** 2 * variances + floors[..., None] ** 2
            return gaussian_loss(v, squares).mean(axis=-1)

        found = loss(np.array(factor), np.array(floor))
        factors = np.array([0, *np.geomspace(1e-3, 1e3, 91)])
        floors = np.geomspace(MIN_FLOOR, 3, 91)
        others = loss(*np.meshgrid(factors, floors))
        assert found <= others.min() + 1e-6

    @given(
        st.floats(0, 3),
        st.floats(0.1, 3),
        npst.arrays("float64", 5, elements=st.floats(0, 2)),
        npst.arrays("float64", 5, elements=st.floats(0, 2)),
    )
    def test_the_loss(self, factor, floor, variances, squares):
        fast = gaussian_loss(factor**2 * variances + floor**2, squares).mean()
        slow = slow_loss(factor, floor, variances, squares)
        assert fast == pytest.approx(slow, rel=1e-9)

    @pytest.mark.parametrize("rule", ["mean", "weights", "median"])
    @pytest.mark.parametrize("task", ["regression", "reconstruction"])
    def test_the_gain_and_its_standard_error(self, rule, task):
        rng = np.random.default_rng(1)
        y = rng.normal(size=(60, 2)) * [1, 50]
        p = y + rng.normal(size=(3, 60, 2)) * [0.2, 30] + [0.3, 5]
        weights = [0.5, 0.3, 0.2] if rule == "weights" else None
        scale = choose_spread_scale(p, y, rule=rule, weights=weights, task=task)

        share = weights or [1 / 3] * 3
        falls = []
        for sample in range(60):
            errors, spreads, parts = [], [], []
            for output in range(2):
                values = p[:, sample, output]
                unit = y[:, output].std() if task == "regression" else y.std()
                mean = sum(w * v for w, v in zip(share, values, strict=True))
                middle = np.median(values) if rule == "median" else mean
                errors.append(((middle - y[sample, output]) / unit) ** 2)
                both = zip(share, values, strict=True)
                spreads.append(sum(w * (v - mean) ** 2 for w, v in both) / unit**2)
            units = y.std(axis=0)
            if task == "reconstruction":
                errors, spreads = [np.mean(errors)], [np.mean(spreads)]
                units = [y.std()]
            for error, variance, factor, floor, unit in zip(
                errors, spreads, scale.factors, scale.floors, units, strict=True
            ):
                raised = max(variance, MIN_FLOOR**2)
                parts.append(
                    slow_loss(1, 0, [raised], [error])
                    - slow_loss(factor, floor / unit, [variance], [error])
                )
            falls.append(np.mean(parts))
        assert scale.gain == pytest.approx(np.mean(falls), rel=1e-6)
        assert scale.gain > np.std(falls, ddof=1) / 60**0.5
        assert scale.samples == 60


@pytest.mark.parametrize(("factor", "floor"), [(2.0, 0.3), (0.5, 0.1), (0.0, 0.4)])
def test_it_is_found_in_drawn_errors(factor, floor):
    scale = choose_spread_scale(*drawn(factor, floor))
    assert scale.factors[0] == pytest.approx(factor, abs=0.15)
    assert scale.floors[0] == pytest.approx(floor, abs=0.03)


def test_scaled_errors_of_new_samples_have_unit_variance():
    scale = choose_spread_scale(*drawn(2.0, 0.3, n=1000))
    members, y = drawn(2.0, 0.3, seed=1)
    z = (members.mean(axis=0) - y) / scale(spread(members))
    assert z.std() == pytest.approx(1, abs=0.05)
    assert np.mean(np.abs(z) < 1) == pytest.approx(0.683, abs=0.03)


def test_a_spread_that_is_right_is_left_alone():
    rng = np.random.default_rng(0)
    deviations = rng.uniform(0.3, 0.6, (400, 1))
    y = rng.normal(size=(400, 1))
    error = deviations * rng.normal(size=y.shape)
    error *= deviations / deviations * np.sqrt(1 / np.mean((error / deviations) ** 2))
    members = np.stack([y + error - deviations, y + error + deviations])
    assert choose_spread_scale(members, y) is None


def test_units_change_only_the_floors():
    members, y = drawn(1.5, 0.2, n=300, n_outputs=2)
    units = np.array([1.0, 1000.0])
    one, other = (choose_spread_scale(members * u, y * u) for u in (1.0, units))
    assert other.factors == pytest.approx(one.factors, rel=1e-3)
    assert other.floors == pytest.approx(one.floors * units, rel=1e-3)
    assert other.gain == pytest.approx(one.gain, rel=1e-6)


def test_members_that_agree_have_the_mean_error():
    rng = np.random.default_rng(0)
    y = rng.normal(size=(200, 1))
    p = y + 0.25 * rng.normal(size=y.shape)
    scale = choose_spread_scale(np.stack([p, p]), y)
    assert scale.factors == (0.0,)
    assert scale.floors[0] == pytest.approx(np.sqrt(np.mean((p - y) ** 2)))
    perfect = choose_spread_scale(np.stack([y, y]), y)
    assert perfect is None or np.isfinite(perfect(np.zeros((1, 1)))).all()


def test_few_samples_and_classes():
    members, y = drawn(2.0, 0.3, n=49)
    assert choose_spread_scale(members, y) is None
    with pytest.raises(ValueError, match="has a temperature"):
        choose_spread_scale(np.full((2, 60, 3), 1 / 3), np.zeros(60), task="multiclass")
    with pytest.raises(ValueError, match="targets of shape"):
        choose_spread_scale(*drawn(1.0, 0.1)[:1], np.zeros(7))


@pytest.mark.parametrize(
    "wrong",
    [
        {"factors": (1.0,), "floors": ()},
        {"factors": (), "floors": ()},
        {"factors": (-1.0,), "floors": (0.0,)},
        {"factors": (1.0,), "floors": (np.inf,)},
        {"factors": (np.nan,), "floors": (0.0,)},
        {"factors": (1.0,), "floors": (0.0,), "samples": -1},
        {"factors": (1.0,), "floors": (0.0,), "gain": np.nan},
    ],
)
def test_wrong_values(wrong):
    with pytest.raises(ValueError, match="as many floors as factors"):
        SpreadScale(**wrong)


def test_it_is_applied_to_outputs_of_any_shape():
    values = np.random.default_rng(0).random((5, 2, 3)).astype("float32")
    factors, floors = np.arange(6.0), np.arange(6.0, 12)
    scaled = SpreadScale((*factors,), (*floors,))(values)
    expected = (factors * values.reshape(5, 6)) ** 2 + floors**2
    np.testing.assert_allclose(scaled.reshape(5, 6) ** 2, expected, rtol=1e-5)
    assert scaled.dtype == values.dtype


@pytest.fixture(scope="module")
def ensemble():
    """Members that differ far less than they err, since the targets have noise."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 4)).astype("float32")
    y = x @ rng.normal(size=(4, 2)) + 0.5 * rng.normal(size=(300, 2))
    models = []
    for seed in range(3):
        keras.utils.set_random_seed(seed)
        model = keras.Sequential([keras.Input((4,)), L.Dense(2)])
        # Each is fitted by least squares to another half of the samples.
        rows = rng.permutation(300)[:150]
        kernel = np.linalg.lstsq(x[rows], y[rows])[0]
        model.set_weights([kernel, np.zeros(2)])
        model.compile("sgd", "mse")
        models.append(model)
    ensemble = kmn.EnsemblePruner(models, 3, method="top_k")
    return ensemble.prune(x, y, verbose=0), x, y


def test_prune_chooses_it_and_reports_it(ensemble, tmp_path):
    pruned, x, y = ensemble
    scale = pruned.spread_scale_
    members = pruned.learners.predict(x, verbose=0)[pruned.selection_.indices]
    assert scale == choose_spread_scale(members, y)
    np.testing.assert_allclose(
        pruned.spread(x), np.hypot(scale.factors * spread(members), scale.floors), 1e-5
    )
    rmse = np.sqrt(np.mean((pruned.predict(x, verbose=0) - y) ** 2))
    assert np.sqrt(np.mean(pruned.spread(x) ** 2)) == pytest.approx(rmse, rel=0.1)
    assert f"NLL is {scale.gain:.3g} lower" in str(pruned.report_)
    path = tmp_path / "page.html"
    pruned.write_report(path, x, y, n_members=[1, 2], n_resamples=2)
    assert f"NLL is {scale.gain:.3g} lower" in path.read_text("utf-8")
    assert pruned.report_.to_dict()["spread_scale"]["samples"] == 300


def test_without_a_temperature_there_is_none(ensemble):
    _, x, y = ensemble
    learners = [LinearRegression().fit(x, y + i) for i in range(2)]
    plain = kmn.EnsemblePruner(learners, 2, method="top_k", temperature=None)
    plain.prune(x, y, verbose=0)
    assert plain.spread_scale_ is None
    np.testing.assert_allclose(plain.spread(x), 0.5, atol=1e-5)
    with pytest.raises(ValueError, match="temperature='fit' or None"):
        kmn.EnsemblePruner(learners, 2, temperature=2.0).prune(x, y, verbose=0)


@pytest.mark.tensorflow
def test_it_is_in_the_file_and_in_the_bundle(ensemble, tmp_path):
    pruned, x, y = ensemble
    pruned.save(tmp_path / "e.keras")
    loaded = keras.saving.load_model(tmp_path / "e.keras")
    assert loaded.spread_scale_ == pruned.spread_scale_
    config = pruned.get_config()
    del config["spread_scale"]  # as in files of earlier versions
    assert kmn.EnsemblePruner.from_config(config).spread_scale_ is None

    bundles = {
        name: pruned.export(
            tmp_path / name, representative_data=x, temperature_data=data
        )
        for name, data in (("kept", None), ("fitted", (x, y)))
    }
    with EnsembleRunner(bundles["kept"]) as runner:
        scale = runner.manifest.combination.spread_scale
        assert scale == pruned.spread_scale_
        raw = spread(runner.predict_members(x), runner.manifest.combination.weights)
        expected = np.hypot(scale.factors * raw, scale.floors)
        np.testing.assert_allclose(runner.spread(x), expected, rtol=1e-5)
        np.testing.assert_allclose(
            runner.predict(x),
            combine(runner.predict_members(x), task="regression"),
            rtol=1e-6,
        )
    with EnsembleRunner(bundles["fitted"]) as runner:
        fitted = runner.manifest.combination.spread_scale
        assert fitted == choose_spread_scale(runner.predict_members(x), y)
        assert fitted != scale
    text = Manifest.read(bundles["kept"]).to_json()
    assert Manifest.from_json(text).combination.spread_scale == scale


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "change",
    [
        {"factors": [1.0], "floors": [0.0]},
        {"factors": [1.0] * 3, "floors": [0.0] * 3},
    ],
)
def test_a_manifest_has_one_factor_per_output(ensemble, tmp_path, change):
    pruned = ensemble[0]
    pruned.export(tmp_path / "b", quantization=None)
    text = Manifest.read(tmp_path / "b").to_json()
    scale = pruned.spread_scale_
    values = json.loads(text)
    values["combination"]["spread_scale"].update(change)
    with pytest.raises(ValueError, match="factor for each"):
        Manifest.from_json(json.dumps(values))
    values["combination"] = {"rule": "mean", "weights": None, "task": "multiclass"}
    values["combination"]["spread_scale"] = {
        "factors": scale.factors,
        "floors": scale.floors,
        "gain": 0.1,
        "samples": 9,
    }
    with pytest.raises(ValueError, match="factor for each"):
        Manifest.from_json(json.dumps(values))


def test_targets_with_weights(ensemble):
    _, x, y = ensemble
    weighted = Targets(y, "regression", sample_weight=np.ones(300))
    members = np.stack([y + 0.1, y + x[:, :2]])
    assert choose_spread_scale(members, weighted) == choose_spread_scale(members, y)
