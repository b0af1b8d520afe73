import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from sklearn.cluster import AgglomerativeClustering
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

import keras_micronets as kmn
from keras_micronets import layers
from keras_micronets.edge import EnsembleRunner, Manifest, Member
from keras_micronets.edge import member as member_module
from keras_micronets.edge.combine import combine

N_CLASSES = 3
SHAPE = (6,)


def make_model(seed, *, softmax=False, shape=SHAPE, n_classes=N_CLASSES):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input(shape),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.Dense(n_classes, activation="softmax" if softmax else None),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=not softmax)
    model.compile("adam", loss)
    return model


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(90, *SHAPE)).astype("float32")
    return x, rng.integers(0, N_CLASSES, 90)


@pytest.fixture(scope="module")
def pool(tmp_path_factory, data):
    """Return a pool of eight learners, logits and probabilities, briefly trained."""
    pool = kmn.LearnerPool(tmp_path_factory.mktemp("ensemble") / "pool")
    for seed in range(8):
        model = make_model(seed, softmax=seed % 2 == 1)
        model.fit(*data, epochs=seed, verbose=0)
        pool.add(model)
    return pool


@pytest.fixture(scope="module")
def int8_pool(pool, data):
    return pool.quantize(data[0], verbose=0)


@pytest.fixture
def ensemble(pool, data):
    ensemble = kmn.EnsemblePruner(pool, 3, method="cluster", random_state=0)
    return ensemble.prune(*data, verbose=0)


def test_keeps_the_most_accurate_of_each_cluster(ensemble, pool, data):
    x, y = data
    accuracies = (pool.predict(x, verbose=0).argmax(-1) == y).mean(axis=1)
    labels = ensemble.selection_.labels

    assert len(set(labels)) == 3
    for index in ensemble.selection_.indices:
        cluster = np.flatnonzero(labels == labels[index])
        assert accuracies[index] == accuracies[cluster].max()
    names = [learner.name for learner in ensemble.learners_]
    assert names == [pool[int(i)].name for i in ensemble.selection_.indices]


@pytest.mark.parametrize("rule", ["mean", "vote", "weights"])
def test_predict_combines_the_members(pool, data, rule):
    x, y = data
    ensemble = kmn.EnsemblePruner(
        pool, 3, method="cluster", combination=rule, random_state=0
    )
    ensemble.prune(x, y, verbose=0)

    members = pool.predict(x, verbose=0)[ensemble.selection_.indices]
    expected = combine(
        members,
        rule=rule,
        weights=ensemble.weights_,
        temperature=ensemble.temperature_,
    )
    predicted = ensemble.predict(x, verbose=0)

    np.testing.assert_allclose(predicted, expected, atol=1e-6)
    np.testing.assert_allclose(predicted.sum(-1), 1, atol=1e-5)


def test_rounded_probabilities_are_scaled_to_sum_to_one(data, tmp_path):
    pool = kmn.LearnerPool(tmp_path / "pool")
    for seed in range(3):
        model = make_model(seed, softmax=True)
        layers.prepare(model, quantize=True)
        layers.set_quantizers(model, True)
        model(data[0], training=True)
        assert np.ptp(model.predict(data[0], verbose=0).sum(-1)) > 1e-3
        pool.add(model)
    ensemble = kmn.EnsemblePruner(
        pool, 2, method="cluster", temperature=None, random_state=0
    )
    ensemble.prune(*data, verbose=0)

    members = pool.predict(data[0], verbose=0)[ensemble.selection_.indices]
    predicted = ensemble.predict(data[0], verbose=0)

    np.testing.assert_allclose(predicted, members.mean(0), atol=1e-6)
    np.testing.assert_allclose(predicted.sum(-1), 1, atol=1e-6)


@pytest.mark.parametrize("one_hot", [False, True])
def test_evaluate_takes_sparse_and_one_hot_labels(ensemble, data, one_hot):
    x, y = data
    labels = np.eye(N_CLASSES)[y] if one_hot else y
    ensemble.compile(metrics=["accuracy"])

    scores = ensemble.evaluate(x, labels, verbose=0, return_dict=True)

    predicted = ensemble.predict(x, verbose=0)
    assert scores["accuracy"] == pytest.approx((predicted.argmax(-1) == y).mean())
    expected = -np.log(predicted[np.arange(len(y)), y]).mean()
    assert scores["loss"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("compiled", [False, True])
def test_save_and_load(ensemble, data, tmp_path, compiled):
    x, y = data
    if compiled:
        ensemble.compile(metrics=["accuracy"])
    ensemble.save(tmp_path / "ensemble.keras")

    loaded = keras.saving.load_model(tmp_path / "ensemble.keras")

    predicted = ensemble.predict(x, verbose=0)
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), predicted)
    if compiled:
        assert loaded.evaluate(x, y, verbose=0) == ensemble.evaluate(x, y, verbose=0)
    with pytest.raises(ValueError, match="learners=None"):
        loaded.prune(x, y)


def optimizer_state(model):
    variables = model.optimizer.variables
    return [keras.ops.convert_to_numpy(variable) for variable in variables]


def after_evaluate(ensemble, x, y):
    ensemble.evaluate(x, y, verbose=0)


def after_fit(ensemble, x, y):
    ensemble.fit(x, y, verbose=0)


def after_other_members(ensemble, x, y):
    ensemble.evaluate(x, y, verbose=0)
    ensemble.fit(x, y, verbose=0)
    ensemble.n_members = 2
    ensemble.prune(x, y, verbose=0)


def after_all(ensemble, x, y):
    after_other_members(ensemble, x, y)
    ensemble.fit(x, y, verbose=0)


@pytest.mark.parametrize(
    "use", [after_evaluate, after_fit, after_other_members, after_all]
)
def test_the_optimizer_is_saved_and_loaded(ensemble, data, tmp_path, use):
    """Keras warns, which fails a test, if the numbers of variables differ."""
    x, y = data
    ensemble.compile("adam")
    use(ensemble, x, y)
    ensemble.save(tmp_path / "ensemble.keras")

    loaded = keras.saving.load_model(tmp_path / "ensemble.keras")

    pairs = zip(optimizer_state(loaded), optimizer_state(ensemble), strict=True)
    for found, expected in pairs:
        np.testing.assert_allclose(found, expected, atol=1e-7)
    if use in (after_fit, after_all):
        assert any(np.any(value != 0) for value in optimizer_state(loaded)[2:])
    assert loaded.evaluate(x, y, verbose=0) == pytest.approx(
        ensemble.evaluate(x, y, verbose=0), rel=1e-5
    )
    loaded.fit(x, y, verbose=0)


def test_prune_after_predict_replaces_the_members(ensemble, data):
    x, y = data
    before = ensemble.predict(x, verbose=0)
    n_variables = len(ensemble.variables)
    ensemble.n_members = 2

    ensemble.prune(x, y, verbose=0)

    assert len(ensemble.members_) == 2
    assert len(ensemble.variables) == n_variables * 2 // 3
    assert not np.array_equal(ensemble.predict(x, verbose=0), before)


def test_only_the_members_are_tracked(ensemble):
    members = {id(v) for member in ensemble.members_ for v in member.variables}

    assert {id(v) for v in ensemble.variables} == members


def test_takes_any_clusterer(pool, data):
    clusterer = AgglomerativeClustering(2)
    ensemble = kmn.EnsemblePruner(pool, method="cluster", clusterer=clusterer)

    ensemble.prune(*data, verbose=0)

    assert len(ensemble.members_) == 2
    assert not hasattr(clusterer, "labels_")


def test_best_cluster_keeps_all_of_it(pool, data):
    ensemble = kmn.EnsemblePruner(
        pool, 3, method="cluster", representative="best_cluster", random_state=0
    ).prune(*data, verbose=0)

    labels = ensemble.selection_.labels
    kept = set(labels[ensemble.selection_.indices])
    assert len(kept) == 1
    assert len(ensemble.members_) == np.sum(labels == kept.pop())


@pytest.mark.tensorflow
def test_members_that_litert_runs(int8_pool, data, tmp_path):
    x, y = data
    ensemble = kmn.EnsemblePruner(
        int8_pool, 3, method="cluster", temperature=None, random_state=0
    )
    ensemble.prune(x, y, verbose=0)
    ensemble.compile(metrics=["accuracy"])

    members = int8_pool.predict(x, verbose=0)[ensemble.selection_.indices]
    predicted = ensemble.predict(x, verbose=0)

    np.testing.assert_allclose(predicted, members.mean(0), atol=1e-6)
    accuracy = ensemble.evaluate(x, y, verbose=0, return_dict=True)["accuracy"]
    assert accuracy == pytest.approx((predicted.argmax(-1) == y).mean())
    with pytest.raises(ValueError, match="members that are Keras models"):
        ensemble.save(tmp_path / "ensemble.keras")
    assert not (tmp_path / "ensemble.keras").exists()


@pytest.mark.tensorflow
def test_bundle_predicts_like_the_ensemble(ensemble, data, tmp_path):
    x, y = data

    bundle = ensemble.export(
        tmp_path / "bundle",
        representative_data=x,
        evaluation_data=(x, y),
        class_names=["a", "b", "c"],
    )

    manifest = json.loads((bundle / "manifest.json").read_text())
    with EnsembleRunner(bundle) as runner:
        answers = runner.predict(x)
    assert np.abs(answers - ensemble.predict(x, verbose=0)).max() < 0.05
    accuracy = (answers.argmax(-1) == y).mean()
    assert manifest["accuracies"]["ensemble"] == pytest.approx(accuracy)
    assert [m["name"] for m in manifest["members"]] == [
        learner.name for learner in ensemble.learners_
    ]


@pytest.mark.tensorflow
def test_bundle_of_litert_members_holds_their_files(int8_pool, data, tmp_path):
    ensemble = kmn.EnsemblePruner(int8_pool, 2, method="cluster", random_state=0)
    ensemble.prune(*data, verbose=0)

    bundle = ensemble.export(tmp_path / "bundle")

    files = {path.read_bytes() for path in bundle.glob("*.tflite")}
    assert files == {learner.path.read_bytes() for learner in ensemble.learners_}
    with pytest.raises(ValueError, match="Ed25519 private key"):
        ensemble.export(tmp_path / "signed", signing_key=b"no key")


@pytest.mark.tensorflow
@pytest.mark.parametrize("combination", ["mean", "weights"])
def test_early_exit_is_chosen_by_the_files(int8_pool, data, tmp_path, combination):
    x, y = data
    ensemble = kmn.EnsemblePruner(
        int8_pool, 3, method="cluster", combination=combination, random_state=0
    )
    ensemble.prune(x, y, verbose=0)

    bundle = ensemble.export(
        tmp_path / "bundle", early_exit_data=(x, y), early_exit_tolerance=0.2
    )

    with EnsembleRunner(bundle) as runner:
        rule = runner.manifest.combination
        chosen = kmn.selection.choose_early_exit(
            runner.predict_members(x),
            y,
            combination=rule.rule,
            weights=rule.weights,
            temperature=rule.temperature,
            tolerance=0.2,
        )
        assert runner.manifest.early_exit == chosen
        asked = runner.predict_early(x)[1]
    assert chosen.saved == pytest.approx(1 - asked.mean() / 3)
    assert (chosen.tolerance, chosen.samples) == (0.2, len(x))
    assert Manifest.read(ensemble.export(tmp_path / "all")).early_exit is None


@pytest.mark.tensorflow
def test_loaded_ensemble_exports(ensemble, data, tmp_path):
    ensemble.save(tmp_path / "ensemble.keras")
    loaded = keras.saving.load_model(tmp_path / "ensemble.keras")

    bundle = loaded.export(tmp_path / "bundle", representative_data=data[0])

    assert len(list(bundle.glob("*.tflite"))) == 3


@pytest.mark.tensorflow
def test_other_formats_are_those_of_keras(ensemble, data, tmp_path):
    ensemble.predict(data[0], verbose=0)

    ensemble.export(tmp_path / "saved", format="tf_saved_model", verbose=False)

    assert (tmp_path / "saved" / "saved_model.pb").exists()


def scaled(p, temperature):
    powers = np.maximum(p, 1e-7).astype("float64") ** (1 / temperature)
    return powers / powers.sum(axis=-1, keepdims=True)


def loss(p, y):
    return -np.log(p[np.arange(len(y)), y]).mean()


def fitted(p, y):
    """Return the temperature of the lowest loss, found by a search of scipy."""
    return minimize_scalar(lambda t: loss(scaled(p, t), y), bounds=(0.1, 15)).x


@pytest.fixture(scope="module")
def labelled():
    """Return inputs, and labels drawn from the probabilities of one model."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(300, *SHAPE)).astype("float32")
    p = make_model(0, softmax=True).predict(2 * x, verbose=0)
    return x, (rng.random((300, 1)) > p.cumsum(axis=1)[:, :-1]).sum(axis=1)


@pytest.fixture(scope="module")
def overconfident(tmp_path_factory):
    """Return a pool of nets near that model, with logits that are too large."""
    pool = kmn.LearnerPool(tmp_path_factory.mktemp("overconfident") / "pool")
    for seed in range(3):
        model = make_model(0, softmax=seed == 1)
        rng = np.random.default_rng(seed)
        noisy = [w + rng.normal(0, 0.1, w.shape) for w in model.get_weights()]
        model.set_weights([*noisy[:2], 6 * noisy[2], 6 * noisy[3]])
        pool.add(model)
    return pool


@pytest.mark.parametrize("rule", ["mean", "logit", "weights"])
def test_a_temperature_is_fitted(overconfident, labelled, rule, tmp_path):
    x, y = labelled
    ensemble = kmn.EnsemblePruner(overconfident, 3, method="top_k", combination=rule)
    assert ensemble.temperature_ == 1
    ensemble.prune(x, y, verbose=0)

    members = overconfident.predict(x, verbose=0)[ensemble.selection_.indices]
    plain = combine(members, rule=rule, weights=ensemble.weights_)
    assert ensemble.temperature_ == pytest.approx(fitted(plain, y), rel=1e-3)
    assert ensemble.temperature_ > 1.2
    predicted = ensemble.predict(x, verbose=0)
    np.testing.assert_allclose(
        predicted, scaled(plain, ensemble.temperature_), atol=1e-5
    )
    report = ensemble.report_
    assert report.temperature == ensemble.temperature_
    before = report.uncalibrated["negative_log_likelihood"]
    after = report.ensemble["negative_log_likelihood"]
    assert before == pytest.approx(loss(plain, y), abs=1e-5)
    assert after == pytest.approx(loss(predicted, y), abs=1e-5)
    assert after < before
    text = f"{ensemble.temperature_:.2f} takes the ensemble's NLL from {before:.3f}"
    assert text in str(report)

    ensemble.save(tmp_path / "ensemble.keras")
    loaded = keras.saving.load_model(tmp_path / "ensemble.keras")
    assert loaded.temperature_ == ensemble.temperature_
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), predicted)


def test_a_temperature_can_be_given_and_set(overconfident, labelled):
    x, y = labelled
    ensemble = kmn.EnsemblePruner(overconfident, 3, method="top_k", temperature=None)
    plain = ensemble.prune(x, y, verbose=0).predict(x, verbose=0)
    members = overconfident.predict(x, verbose=0)
    np.testing.assert_allclose(plain, members.mean(axis=0), atol=1e-6)
    assert (ensemble.temperature_, ensemble.report_.uncalibrated) == (1, None)

    ensemble.temperature_ = 2  # after `predict` was compiled
    np.testing.assert_allclose(
        ensemble.predict(x, verbose=0), scaled(plain, 2), atol=1e-5
    )
    ensemble.temperature = 3.0
    ensemble.prune(x, y, verbose=0)
    assert ensemble.temperature_ == ensemble.report_.temperature == 3
    ensemble.combination, ensemble.temperature = "vote", "fit"
    ensemble.prune(x, y, verbose=0)
    assert (ensemble.temperature_, ensemble.report_.temperature) == (1, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"temperature": np.nan}, "temperature=nan"),
        ({"temperature": "auto"}, "temperature='auto'"),
        ({"temperature": 2.0, "combination": "vote"}, "rule='vote'"),
    ],
)
def test_unsuitable_temperatures(overconfident, labelled, arguments, message):
    ensemble = kmn.EnsemblePruner(overconfident, 2, **arguments)
    with pytest.raises(ValueError, match=message):
        ensemble.prune(*labelled, verbose=0)
    with pytest.raises(ValueError, match="temperature=-1"):
        ensemble.temperature_ = -1
    assert ensemble.temperature_ == 1


@pytest.mark.tensorflow
@pytest.mark.parametrize("rule", ["mean", "weights"])
def test_the_device_applies_the_temperature(overconfident, labelled, rule, tmp_path):
    x, y = labelled
    ensemble = kmn.EnsemblePruner(overconfident, 3, method="top_k", combination=rule)
    ensemble.prune(x, y, verbose=0)
    options = {"representative_data": x}
    scored = {"evaluation_data": (x, y), "early_exit_data": (x, y)}
    bundle = ensemble.export(tmp_path / "bundle", **options, **scored)
    with EnsembleRunner(bundle) as runner:
        combination, scores = runner.manifest.combination, runner.manifest.accuracies
        assert combination.temperature == ensemble.temperature_
        plain = combine(
            runner.predict_members(x), rule=rule, weights=combination.weights
        )
        predicted = runner.predict(x, early_exit=False)
    expected = scaled(plain, ensemble.temperature_)
    np.testing.assert_allclose(predicted, expected, atol=1e-5)
    assert scores["negative_log_likelihood"] == pytest.approx(loss(expected, y))
    assert scores["without_temperature"] == pytest.approx(loss(plain, y))

    single = Member(ensemble.export(tmp_path / "all.tflite", **options))
    np.testing.assert_allclose(single.predict_raw(x), predicted, atol=1e-5)

    # Fitted again to the files' own outputs, where that pays.
    options["temperature_data"] = x[:200], y[:200]
    for before, expected in (
        (ensemble.temperature_, ensemble.temperature_),
        (0.5, fitted(plain[:200], y[:200])),
    ):
        ensemble.temperature_ = before
        bundle = ensemble.export(tmp_path / "again", **options)
        again = Manifest.read(bundle).combination.temperature
        assert again == pytest.approx(expected, rel=1e-3)


@pytest.mark.tensorflow
def test_files_predict_as_they_do_on_the_device(overconfident, labelled, tmp_path):
    x, y = labelled
    int8_pool = overconfident.quantize(x, verbose=0)
    ensemble = kmn.EnsemblePruner(int8_pool, 3, method="top_k")
    ensemble.prune(x, y, verbose=0)
    assert ensemble.temperature_ > 1.2
    with EnsembleRunner(ensemble.export(tmp_path / "bundle")) as runner:
        found = runner.predict(x)
    np.testing.assert_allclose(found, ensemble.predict(x, verbose=0), atol=1e-6)


def test_the_page_shows_the_temperature(overconfident, labelled, tmp_path):
    pytest.importorskip("matplotlib")
    x, y = labelled
    p = overconfident.predict(x, verbose=0)
    ensemble = kmn.EnsemblePruner(p, 3, method="top_k").prune(None, y, verbose=0)

    path = tmp_path / "page.html"
    text = ensemble.write_report(path, None, y, n_resamples=2).read_text()

    assert f"The temperature is {ensemble.temperature_:.2f}, on all samples" in text
    assert f"NLL {loss(scaled(p.mean(0), ensemble.temperature_), y):.3f}" in text
    plain = kmn.EnsemblePruner(p, 3, method="top_k", temperature=None)
    plain.prune(None, y, verbose=0)
    text = plain.write_report(path, None, y, n_resamples=2).read_text()
    assert "fitted on a random half of the samples" in text
    assert "takes the ensemble" not in text


def test_calibration_on_digits():
    """Sure learners on noisy digits: the temperature pays on data not seen."""
    x, y = load_digits(return_X_y=True)
    x = x + np.random.default_rng(0).normal(0, 6, x.shape)
    learners = {
        f"from {i}": LogisticRegression(C=100, max_iter=2000).fit(
            x[i:600:3] / 16, y[i:600:3]
        )
        for i in range(3)
    }
    ensemble = kmn.EnsemblePruner(learners, 3, method="top_k")
    ensemble.prune(x[600:1000] / 16, y[600:1000], verbose=0)
    test_x, test_y = x[1000:] / 16, y[1000:]
    plain = np.mean([m.predict_proba(test_x) for m in learners.values()], axis=0)
    predicted = ensemble.predict(test_x, verbose=0)
    assert loss(predicted, test_y) < loss(np.maximum(plain, 1e-7), test_y) - 0.02
    np.testing.assert_array_equal(predicted.argmax(-1), plain.argmax(-1))


def test_report_prints(ensemble, pool):
    text = str(ensemble.report_)

    assert all(learner.name in text for learner in pool)


class TestBadInput:
    def test_before_prune(self, pool, data, tmp_path):
        ensemble = kmn.EnsemblePruner(pool)

        with pytest.raises(ValueError, match="no members yet"):
            ensemble.predict(data[0], verbose=0)
        with pytest.raises(ValueError, match="no members yet"):
            ensemble.export(tmp_path / "bundle")
        assert not (tmp_path / "bundle").exists()

    def test_empty_pool(self, data, tmp_path):
        ensemble = kmn.EnsemblePruner(kmn.LearnerPool(tmp_path / "pool"))

        with pytest.raises(ValueError, match="pool with learners"):
            ensemble.prune(*data)

    def test_more_members_than_learners(self, pool, data):
        with pytest.raises(ValueError, match="8"):
            kmn.EnsemblePruner(pool, 9).prune(*data, verbose=0)

    def test_n_members_other_than_the_clusterer(self, pool, data):
        ensemble = kmn.EnsemblePruner(
            pool, 3, method="cluster", clusterer=AgglomerativeClustering(2)
        )

        with pytest.raises(ValueError, match="3"):
            ensemble.prune(*data, verbose=0)

    @pytest.mark.parametrize(
        "arguments", [{"combination": "sum"}, {"representative": "best"}]
    )
    def test_unknown_rule(self, pool, data, arguments):
        ensemble = kmn.EnsemblePruner(pool, 3, **arguments)

        with pytest.raises(ValueError, match=next(iter(arguments.values()))):
            ensemble.prune(*data, verbose=0)

    def test_labels_of_another_length(self, ensemble, data):
        x, y = data
        before = ensemble.members_

        with pytest.raises(ValueError, match="89"):
            ensemble.prune(x, y[:-1], verbose=0)
        assert ensemble.members_ == before

    def test_undeclared_logits(self, data, tmp_path):
        pool = kmn.LearnerPool(tmp_path / "pool")
        for seed in range(4):
            model = make_model(seed)
            model.compile("adam", "mse")
            pool.add(model, task="multiclass")

        message = f"learner '{pool[0].name}'.*from_logits"
        with pytest.raises(ValueError, match=message):
            kmn.EnsemblePruner(pool, 2).prune(*data, verbose=0)

    @pytest.mark.parametrize(
        ("task", "y"), [("multiclass", np.zeros(4, int)), ("multilabel", np.eye(4))]
    )
    @pytest.mark.parametrize("value", [np.nan, 7.5])
    def test_invalid_predictions_name_the_learner(self, task, y, value):
        learners = {
            "good": lambda x: np.full((len(x), 4), 0.25, "float32"),
            "bad": lambda x: np.full((len(x), 4), value, "float32"),
        }
        ensemble = kmn.EnsemblePruner(learners, 1, task=task)
        with pytest.raises(ValueError, match="from learner 'bad'"):
            ensemble.prune(np.zeros((4, 1)), y, verbose=0)
        assert ensemble.members_ == []

    def test_learners_of_other_classes(self, data, tmp_path):
        pool = kmn.LearnerPool(tmp_path / "pool")
        pool.add(make_model(0))
        pool.add(make_model(1, n_classes=4))

        with pytest.raises(ValueError, match="same classes"):
            kmn.EnsemblePruner(pool, 2).prune(*data, verbose=0)

    @pytest.mark.tensorflow
    def test_export_without_ranges(self, ensemble, tmp_path):
        with pytest.raises(ValueError, match="representative"):
            ensemble.export(tmp_path / "bundle")
        assert not (tmp_path / "bundle").exists()


def test_importing_the_package_imports_neither_keras_nor_tensorflow():
    code = "import sys, keras_micronets; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()

    assert not {"keras", "tensorflow", "sklearn"} & set(modules)


def test_predictions_of_many_learners_are_mapped_from_disk(pool, data, monkeypatch):
    x, y = data
    expected = kmn.EnsemblePruner(pool, 3, method="cluster", random_state=0)
    expected.prune(x, y, verbose=0)
    seen = []
    choose = kmn.ensemble.pruner.selection.cluster

    def spying(probabilities, *arguments, **options):
        seen.append(probabilities)
        return choose(probabilities, *arguments, **options)

    monkeypatch.setattr(kmn.ensemble.data, "MAX_IN_MEMORY", 100)
    before = sorted(pool.path.rglob("*"))
    ensemble = kmn.EnsemblePruner(pool, 3, method=spying, random_state=0)
    ensemble.prune(x, y, verbose=0)

    assert isinstance(seen[0].base, np.memmap)
    assert seen[0].dtype == "float16"
    np.testing.assert_allclose(seen[0], pool.predict(x, verbose=0), atol=5e-4)
    kept = expected.selection_.indices
    np.testing.assert_array_equal(ensemble.selection_.indices, kept)
    assert sorted(pool.path.rglob("*")) == before


@keras.saving.register_keras_serializable(package="tests")
def first_two(probabilities, y, n_members, *, random_state=None):
    return kmn.selection.top_k(probabilities, y, 2)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"n_members": (2, 3), "method": "auto", "random_state": 1},
        {"n_members": "silhouette", "representative": "loss"},
        {"budget": 5.0, "costs": np.arange(8.0), "combination": "vote"},
        {"budget": 9e9, "costs": "n_bytes"},
        {"method": first_two, "temperature": 2.5},
        {"temperature": None},
    ],
)
def test_config_restores_the_arguments(pool, arguments):
    ensemble = kmn.EnsemblePruner(pool, **arguments)

    restored = kmn.EnsemblePruner.from_config(ensemble.get_config())

    names = ("n_members", "method", "representative", "budget", "costs", "temperature")
    for name in names:
        expected, got = getattr(ensemble, name), getattr(restored, name)
        np.testing.assert_array_equal(got, expected)
    assert restored.combination == ensemble.combination
    assert restored.random_state == ensemble.random_state
    assert restored.get_config() == ensemble.get_config()


@pytest.mark.parametrize(
    ("name", "value"),
    [("method", lambda p, y, n, **_: None), ("clusterer", AgglomerativeClustering(2))],
)
def test_arguments_that_cannot_be_saved_are_named(ensemble, name, value, tmp_path):
    setattr(ensemble, name, value)

    with pytest.raises(ValueError, match=f"{name}="):
        ensemble.save(tmp_path / "ensemble.keras")
    assert not list(tmp_path.iterdir())


@pytest.mark.tensorflow
def test_each_member_is_loaded_once_before_it_is_written(
    ensemble, data, tmp_path, monkeypatch
):

    loads = []
    real = member_module.Interpreter

    def counted(**arguments):
        loads.append(arguments)
        return real(**arguments)

    monkeypatch.setattr(member_module, "Interpreter", counted)
    ensemble.export(
        tmp_path / "bundle.zip",
        representative_data=data[0],
        evaluation_data=data,
        early_exit_data=data,
    )

    # Here, and by the runner that verifies the written bundle.
    assert len(loads) == 2 * len(ensemble.members_)
