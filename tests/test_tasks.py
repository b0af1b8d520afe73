"""Each task from training to the device, with slow versions of what it computes."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from distributed_cases import served
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import keras_micronets as kmn
from keras_micronets.edge import (
    EnsembleRunner,
    choose_alarm,
    combine,
    spread,
)
from keras_micronets.learners.outputs import infer_task
from keras_micronets.selection import METHODS, Targets
from keras_micronets.selection.targets import check_data, least_squares_weights

L = keras.layers
N_SAMPLES, N_FEATURES = 160, 6
#: Loss, units, last activation, and targets of each task.
TASKS = {
    "binary": ("binary_crossentropy", 1, "sigmoid"),
    "multilabel": ("binary_crossentropy", 3, "sigmoid"),
    "regression": ("mse", 2, None),
    "reconstruction": ("mse", N_FEATURES, None),
}
#: The methods that need classes, since they count votes or wrong samples.
NEEDS_CLASSES = {
    "greedy by error",
    "reduced_error",
    "complementariness",
    "margin_distance",
    "orientation_ordering",
    "mdep",
    "epic",
    "drep",
    "kappa_pruning",
    "cluster on log_probabilities",
    "cluster on predictions",
    "cluster on disagreement",
    "cluster on double_fault",
    "prune2edge",
}


def data_of(task):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N_SAMPLES, N_FEATURES)).astype("float32")
    hidden = x @ rng.normal(size=(N_FEATURES, 3)) + 0.3 * rng.normal(
        size=(N_SAMPLES, 3)
    )
    y = {
        "binary": (hidden[:, :1] > 0).astype("float32"),
        "multilabel": (hidden > 0).astype("float32"),
        "regression": hidden[:, :2].astype("float32"),
        "reconstruction": x,
    }[task]
    return x, y


def model_of(task, seed=0, *, logits=False):
    loss, units, last = TASKS[task]
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((N_FEATURES,)),
            L.Dense(8, activation="relu"),
            L.Dense(units, activation=None if logits else last),
        ]
    )
    if logits:
        loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.02), loss)
    return model


@pytest.fixture(scope="module", params=[*TASKS])
def trained(request, tmp_path_factory):
    """A task, its data, a pool of four learners, and an ensemble of two."""
    task = request.param
    x, y = data_of(task)
    pool = kmn.LearnerPool(tmp_path_factory.mktemp(task) / "pool")
    qat = kmn.callbacks.QuantizationAwareTraining(start=0.3)
    checkpoint = kmn.callbacks.LearnerCheckpoint(pool, start=0.5)
    model = model_of(task)
    model.fit(x, y, epochs=8, verbose=0, callbacks=[qat, checkpoint])
    ensemble = kmn.EnsemblePruner(pool, 2, method="top_k", random_state=0)
    ensemble.prune(x, y, verbose=0)
    return task, x, y, pool, ensemble


@pytest.fixture(scope="module")
def bundle(trained, tmp_path_factory):
    task, x, y, _, ensemble = trained
    path = tmp_path_factory.mktemp("bundles") / task
    options = {"alarm_data": x, "false_alarm_rate": 0.1}
    if task != "reconstruction":
        options = {}
    ensemble.export(path, evaluation_data=(x, y), **options)
    return path


def test_the_task_is_that_of_the_loss(trained):
    task, *_, pool, ensemble = trained
    assert {learner.task for learner in pool} == {task} == {ensemble.task_}


def test_predictions_have_the_shape_of_a_model(trained):
    task, x, y, pool, ensemble = trained
    shape = y.reshape(len(y), -1).shape
    assert pool.predict(x, verbose=0).shape == (len(pool), *shape)
    assert ensemble.predict(x, verbose=0).shape == shape
    assert ensemble.spread(x).shape == (
        shape[:1] if task == "reconstruction" else shape
    )


def test_the_ensemble_is_the_mean_of_its_members(trained):
    _, x, _, pool, ensemble = trained
    kept = pool.predict(x, verbose=0)[ensemble.selection_.indices]
    expected = combine(kept, **ensemble._rule())
    np.testing.assert_allclose(ensemble.predict(x, verbose=0), expected, atol=2e-6)
    weights = ensemble.weights_ or [0.5, 0.5]
    if ensemble.temperature_ == 1:
        mean = sum(w * one for w, one in zip(weights, kept, strict=True))
        np.testing.assert_allclose(expected, mean, atol=1e-6)


def test_it_evaluates_and_is_saved(trained, tmp_path):
    _, x, y, _, ensemble = trained
    ensemble.compile()
    ensemble.save(tmp_path / "e.keras")
    loss = ensemble.evaluate(x, y, verbose=0)
    p = ensemble.predict(x, verbose=0).astype("float64")
    if ensemble.task_ in ("binary", "multilabel"):
        expected = -np.mean(np.log(np.clip(np.where(y > 0, p, 1 - p), 1e-7, 1)))
    else:
        expected = np.mean((p - y) ** 2)
    assert loss == pytest.approx(expected, rel=1e-4)
    loaded = keras.saving.load_model(tmp_path / "e.keras")
    np.testing.assert_allclose(loaded.predict(x, verbose=0), p, atol=1e-6)
    np.testing.assert_allclose(loaded.spread(x), ensemble.spread(x), atol=1e-6)
    assert loaded.spread_scale_ == ensemble.spread_scale_


@pytest.mark.parametrize("method", [*METHODS])
def test_every_method(trained, method):
    task, x, y, pool, _ = trained
    options = {"verbose": 0} if method == "auto" else {}
    choose = kmn.selection.as_method(method)
    arguments = pool.predict(x, verbose=0), Targets(y, task), 2
    if task in ("regression", "reconstruction") and method in NEEDS_CLASSES:
        with pytest.raises(ValueError, match="Expected a task with classes"):
            choose(*arguments, random_state=0)
        return
    chosen = choose(*arguments, random_state=0, **options)
    assert 1 <= len(chosen.indices) <= 2
    assert chosen.weights.sum() == pytest.approx(1)


def test_the_report(trained, tmp_path):
    task, x, y, pool, ensemble = trained
    rows = ensemble.report_.rows
    p = pool.predict(x, verbose=0).astype("float64")
    for row, one in zip(rows, p, strict=True):
        if task in ("binary", "multilabel"):
            assert row.accuracy == pytest.approx(np.mean((one > 0.5) == (y > 0.5)))
        else:
            assert row.mean_absolute_error == pytest.approx(np.abs(one - y).mean())
            error = np.mean((one - y) ** 2)
            assert row.root_mean_squared_error == pytest.approx(error**0.5)
    heading = "R²" if task in ("regression", "reconstruction") else "acc."
    assert heading in str(ensemble.report_)
    json.dumps(ensemble.report_.to_dict())


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_the_report_page(task, tmp_path):
    pytest.importorskip("matplotlib")
    _, y = data_of(task)
    p = np.stack([y * 0.5 + 0.1 * i for i in range(5)])
    targets = Targets(y, task)
    chosen = kmn.selection.greedy(p, targets, 2)
    path = tmp_path / "report.html"
    kmn.selection.write_report(path, p, targets, chosen, n_bytes=[1000] * 5)
    page = path.read_text("utf-8")
    assert ("R²" in page) == (task == "regression")
    assert ("Reliability" in page) == (task == "multilabel")


def test_the_bundle_predicts_as_the_ensemble(trained, bundle):
    task, x, _, _, ensemble = trained
    with EnsembleRunner(bundle) as runner:
        assert runner.manifest.task == task
        p = runner.predict(x)
        members = runner.predict_members(x)
        weights = runner.manifest.combination.weights
        expected = np.average(members, axis=0, weights=weights).var() ** 0.5
        assert expected > 0
        expected = spread(members, weights, task=task)
        scale = runner.manifest.combination.spread_scale
        assert scale == ensemble.spread_scale_
        if task in ("regression", "reconstruction"):
            expected = np.hypot(scale.factors * expected, scale.floors)
            assert scale.samples == len(x)
        np.testing.assert_allclose(runner.spread(x), expected, atol=1e-6)
    difference = np.abs(p - ensemble.predict(x, verbose=0))
    assert p.shape == ensemble.predict(x, verbose=0).shape
    # Outputs are integers on the device and in its simulation alike.
    assert difference.max() < 1e-4


def test_scores_of_the_files(trained, bundle):
    task, x, y, *_ = trained
    with EnsembleRunner(bundle) as runner:
        p, scores = runner.predict(x), runner.manifest.accuracies
    if task in ("binary", "multilabel"):
        assert scores["ensemble"] == pytest.approx(np.mean((p > 0.5) == (y > 0.5)))
    else:
        error = np.mean((p - y) ** 2)
        assert scores["root_mean_squared_error"] == pytest.approx(error**0.5, rel=1e-5)


@pytest.mark.tensorflow
@pytest.mark.parametrize("rule", ["mean", "logit", "vote", "weights", "median"])
def test_one_file_for_all_members(trained, tmp_path, rule):
    task, x, *_, ensemble = trained
    classes = task in ("binary", "multilabel")
    if rule not in (("mean", "logit", "vote", "weights") if classes else ("median",)):
        return
    learners = {x.name: x.load() for x in ensemble.learners_}
    copy = kmn.EnsemblePruner(
        learners, 2, method="top_k", combination=rule, temperature=None, task=task
    )
    copy.prune(*data_of(task), verbose=0)
    if classes and rule != "vote":
        copy.temperature_ = 1.7
    copy.export(tmp_path / "one.tflite")
    file = kmn.edge.Member(tmp_path / "one.tflite", task="regression")
    np.testing.assert_allclose(
        file.predict(x), copy.predict(x, verbose=0), atol=2e-4, rtol=1e-4
    )


def test_the_command_predict(trained, bundle, tmp_path):
    task, x, *_ = trained
    np.save(tmp_path / "x.npy", x[:5])
    command = [sys.executable, str(bundle), "predict", str(tmp_path / "x.npy")]
    result = subprocess.run(
        [*command, "--json", "--output", str(tmp_path / "p.npy")],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    p = np.load(tmp_path / "p.npy")
    for line, one, sample in zip(lines, p, x[:5], strict=True):
        if task == "binary":
            assert line["class"] == int(one[0] > 0.5)
            assert line["probability"] == pytest.approx(
                max(one[0], 1 - one[0]), abs=1e-6
            )
        elif task == "multilabel":
            assert [x["label"] for x in line["labels"]] == [*np.flatnonzero(one >= 0.5)]
        elif task == "regression":
            assert line["values"] == pytest.approx(one.tolist(), abs=1e-5)
        else:
            assert line["score"] == pytest.approx(
                np.mean((one - sample) ** 2), rel=1e-5
            )
            assert line["alarm"] in (True, False)
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert len(text.splitlines()) == 5


def test_nodes_serve_it(trained, bundle, tmp_path):
    _, x, *_ = trained
    with served(bundle, tmp_path) as (_, gateway), EnsembleRunner(bundle) as runner:
        answer = gateway.predict(x, deadline=20)
        np.testing.assert_array_equal(answer.probabilities, runner.predict(x))
        assert {*answer.nodes.values()} == {"one", "two"}


@pytest.mark.tensorflow
def test_early_exit_where_a_class_can_be_decided(trained, tmp_path):
    task, x, y, _, ensemble = trained
    if task == "binary":
        ensemble.export(tmp_path / "b", early_exit_data=(x, y))
        with EnsembleRunner(tmp_path / "b") as runner:
            p, n_run = runner.predict_early(x)
            everyone = runner.predict(x, early_exit=False)
        np.testing.assert_array_equal(p > 0.5, everyone > 0.5)
        assert p.shape == everyone.shape
        assert n_run.min() >= 1
        return
    with pytest.raises(ValueError, match="one class per sample"):
        ensemble.export(tmp_path / "b", early_exit_data=(x, y))


def test_alarms(trained, bundle):
    task, x, *_ = trained
    with EnsembleRunner(bundle) as runner:
        if task != "reconstruction":
            with pytest.raises(ValueError, match="reconstruction"):
                runner.score(x)
            return
        scores = runner.score(x)
        np.testing.assert_allclose(
            scores, ((runner.predict(x) - x) ** 2).mean(axis=1), rtol=1e-5
        )
        alarm = runner.manifest.alarm
        assert alarm.samples == len(x)
        assert (scores > alarm.threshold).mean() <= 0.1
        assert runner.score(10 * x).min() > np.median(scores)


def test_logits(tmp_path):
    for task in ("binary", "multilabel"):
        x, y = data_of(task)
        model = model_of(task, logits=True)
        model.fit(x, y, verbose=0)
        pool = kmn.LearnerPool(tmp_path / task)
        learner = pool.add(model)
        assert (learner.task, learner.from_logits) == (task, True)
        expected = 1 / (1 + np.exp(-model.predict(x, verbose=0).astype("float64")))
        np.testing.assert_allclose(pool.predict(x, verbose=0)[0], expected, atol=1e-6)


class TestSlowVersions:
    """Losses, scores and combinations beside loops written from their definition."""

    @given(
        npst.arrays("float64", (4, 7, 3), elements=st.floats(0.01, 0.99)),
        npst.arrays("bool", (7, 3)),
    )
    def test_multilabel(self, p, y):
        _, targets = check_data(p, Targets(y, "multilabel"))
        for one in p:
            losses, wrong = [], []
            for sample in range(7):
                for label in range(3):
                    right = (
                        one[sample, label]
                        if y[sample, label]
                        else (1 - one[sample, label])
                    )
                    losses.append(-np.log(right))
                    wrong.append((one[sample, label] > 0.5) != y[sample, label])
            assert targets.mean_loss(one) == pytest.approx(np.mean(losses))
            assert targets.mean_error(one) == pytest.approx(np.mean(wrong))

    @given(
        npst.arrays("float64", (6, 2), elements=st.floats(-5, 5)),
        npst.arrays("float64", (6, 2), elements=st.floats(-5, 5)),
    )
    def test_regression(self, p, y):
        y[:, 0] += np.arange(6) * 10
        y[:, 1] = y[:, 1].round(3)  # constant, or of a spread that can be squared
        _, targets = check_data(p[None], Targets(y, "regression"))
        loss = 0.0
        for output in range(2):
            variance = np.mean((y[:, output] - y[:, output].mean()) ** 2) or 1.0
            loss += np.mean((p[:, output] - y[:, output]) ** 2) / variance / 2
        assert targets.mean_loss(p) == pytest.approx(loss)
        assert targets.score(p) == pytest.approx(1 - loss)

    def test_r2_is_that_of_scikit_learn(self):
        from sklearn.metrics import r2_score

        x, y = data_of("regression")
        p = y + 0.3 * x[:, :2]
        _, targets = check_data(p[None], Targets(y, "regression"))
        assert targets.score(p) == pytest.approx(r2_score(y, p), rel=1e-6)

    @given(npst.arrays("float64", (3, 20), elements=st.floats(-3, 3)))
    def test_weights_of_least_squares(self, errors):
        errors = errors + np.arange(3)[:, None] * 0.1 + 0.05
        weights = least_squares_weights(errors)
        assert weights.min() >= 0
        assert weights.sum() == pytest.approx(1)
        loss = np.mean((weights @ errors) ** 2)
        grid = np.linspace(0, 1, 21)
        for a in grid:
            for b in grid[grid <= 1 - a + 1e-9]:
                other = np.array([a, b, max(0.0, 1 - a - b)])
                assert loss <= np.mean((other @ errors) ** 2) + 1e-7

    @given(npst.arrays("float64", (3, 4, 2), elements=st.floats(0.001, 0.999)))
    def test_combinations_of_labels(self, p):
        for rule in ("mean", "logit", "vote"):
            together = combine(p, rule=rule, task="multilabel")
            for sample in range(4):
                for label in range(2):
                    ones = p[:, sample, label]
                    columns = np.stack([1 - ones, ones], axis=1)[:, None]
                    expected = combine(columns, rule=rule)[0, 1]
                    assert together[sample, label] == pytest.approx(expected)

    @given(npst.arrays("float64", (5, 4, 2), elements=st.floats(-9, 9)))
    def test_median_and_spread(self, numbers):
        median = combine(numbers, rule="median", task="regression")
        np.testing.assert_allclose(median, np.sort(numbers, axis=0)[2])
        expected = [[np.std(numbers[:, i, j]) for j in range(2)] for i in range(4)]
        np.testing.assert_allclose(spread(numbers), expected, atol=1e-9)


@given(st.integers(1, 60), st.floats(0.02, 0.9))
def test_the_threshold_of_an_alarm(n, rate):
    scores = np.random.default_rng(n).permutation(np.arange(float(n)))
    if n < 1 / rate - 1 - 1e-9:
        with pytest.raises(ValueError, match="normal samples"):
            choose_alarm(scores, rate)
        return
    threshold = choose_alarm(scores, rate).threshold
    # Of n + 1 exchangeable samples the new one has each rank equally often.
    above = (scores > threshold).sum() + 1
    assert above / (n + 1) <= rate + 1e-9
    assert (above + 1) / (n + 1) > rate - 1e-9


def test_false_alarms_of_new_samples():
    rng = np.random.default_rng(0)
    rates = []
    for _ in range(300):
        threshold = choose_alarm(rng.exponential(size=200), 0.05).threshold
        rates.append(np.mean(rng.exponential(size=200) > threshold))
    assert np.mean(rates) == pytest.approx(0.05, abs=0.005)


@pytest.mark.parametrize(
    ("units", "activation", "loss", "task"),
    [
        (3, "softmax", "mse", "multiclass"),
        (3, None, "sparse_categorical_crossentropy", "multiclass"),
        (1, "sigmoid", "binary_crossentropy", "binary"),
        (1, None, keras.losses.BinaryCrossentropy(from_logits=True), "binary"),
        (3, "sigmoid", "binary_focal_crossentropy", "multilabel"),
        (1, None, "mae", "regression"),
        (2, None, keras.losses.Huber(), "regression"),
        (N_FEATURES, "sigmoid", "binary_crossentropy", "reconstruction"),
        (N_FEATURES, None, "mean_squared_error", "reconstruction"),
        (1, "sigmoid", None, "binary"),
        (3, "softmax", None, "multiclass"),
        (3, None, None, "multiclass"),
        (1, None, None, "regression"),
    ],
)
def test_the_task_is_inferred(units, activation, loss, task):
    model = keras.Sequential(
        [keras.Input((N_FEATURES,)), L.Dense(units, activation=activation)]
    )
    if loss is not None:
        model.compile("sgd", loss)
    assert infer_task(model) == task


def test_an_autoencoder_of_images(tmp_path):
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).random((40, 8, 8, 1), "float32")
    models = {}
    for name in ("a", "b"):
        models[name] = keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                L.Conv2D(4, 3, padding="same", activation="relu"),
                L.Conv2D(1, 3, padding="same"),
            ]
        )
        models[name].compile("adam", "mae")
    ensemble = kmn.EnsemblePruner(models, 2, method="top_k", combination="median")
    ensemble.prune(x, verbose=0)
    assert ensemble.task_ == "reconstruction"
    p = ensemble.predict(x, verbose=0)
    assert p.shape == x.shape
    expected = np.mean([m.predict(x, verbose=0) for m in models.values()], axis=0)
    np.testing.assert_allclose(p, expected, atol=1e-6)
    ensemble.export(
        tmp_path / "b", representative_data=x, alarm_data=x, false_alarm_rate=0.1
    )
    with EnsembleRunner(tmp_path / "b") as runner:
        assert runner.predict(x).shape == x.shape
        errors = ((runner.predict(x) - x) ** 2).mean(axis=(1, 2, 3))
        np.testing.assert_allclose(runner.score(x), errors, rtol=1e-5)


@pytest.mark.parametrize("task", ["binary", "multilabel", "regression"])
def test_cycles_measure_how_much_learners_differ(task, tmp_path):
    x, y = data_of(task)
    pool = kmn.LearnerPool(tmp_path / "pool")
    cycles = kmn.callbacks.LearnerCycles(pool, 2, validation_data=(x, y))
    history = model_of(task).fit(x, y, epochs=2, verbose=0, callbacks=[cycles])
    first, last = pool.predict(x, verbose=0).astype("float64")
    expected = np.mean((first > 0.5) != (last > 0.5))
    if task == "regression":
        both = np.stack([first, last])
        expected = np.sqrt(np.mean((first - last) ** 2)) / both.std()
    assert history.history["disagreement"][-1] == pytest.approx(expected, rel=1e-4)


def test_tasks_do_not_mix():
    models = [model_of("binary"), model_of("regression")]
    with pytest.raises(ValueError, match="learners of one task"):
        kmn.EnsemblePruner(models, 2).prune(*data_of("binary"), verbose=0)
    ensemble = kmn.EnsemblePruner([model_of("regression")], 1, combination="vote")
    with pytest.raises(ValueError, match="combination out of"):
        ensemble.prune(*data_of("regression"), verbose=0)
