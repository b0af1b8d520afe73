"""`EnsemblePruner` on learners that are in no pool."""

import keras
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from test_ensemble import N_CLASSES, SHAPE, make_model

import keras_micronets as kmn
from keras_micronets import selection
from keras_micronets.edge import EnsembleRunner
from keras_micronets.edge.combine import combine

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(90, *SHAPE)).astype("float32")
Y = RANDOM.integers(0, N_CLASSES, 90)


@pytest.fixture(scope="module")
def models():
    trained = [make_model(seed, softmax=seed == 1) for seed in range(4)]
    for model in trained[2:]:
        model.fit(X, Y, epochs=3, verbose=0)
    return trained


@pytest.fixture(scope="module")
def functions():
    return [
        LogisticRegression(C=0.1).fit(X, Y).predict_proba,
        GaussianNB().fit(X, Y).predict_proba,
        lambda x: np.full((len(x), N_CLASSES), 1 / N_CLASSES),
    ]


def predictions(models):
    outputs = [keras.ops.convert_to_numpy(model(X)) for model in models]
    return np.stack(
        [
            out if i == 1 else keras.ops.convert_to_numpy(keras.ops.softmax(out))
            for i, out in enumerate(outputs)
        ]
    )


def test_a_list_of_keras_models(models, tmp_path):
    ensemble = kmn.EnsemblePruner(
        models, 2, method="cluster", temperature=None, random_state=0
    )
    assert not ensemble.variables

    ensemble.prune(X, Y, verbose=0)

    expected = selection.cluster(predictions(models), Y, 2, random_state=0)
    np.testing.assert_array_equal(ensemble.selection_.indices, expected.indices)
    assert ensemble.members_ == [models[i] for i in expected.indices]
    np.testing.assert_allclose(
        ensemble.predict(X, verbose=0),
        predictions(models)[expected.indices].mean(axis=0),
        atol=1e-6,
    )
    ensemble.save(tmp_path / "ensemble.keras")
    loaded = keras.saving.load_model(tmp_path / "ensemble.keras")
    np.testing.assert_allclose(
        loaded.predict(X, verbose=0), ensemble.predict(X, verbose=0), atol=1e-6
    )


def test_models_of_scikit_learn(functions, tmp_path):
    ensemble = kmn.EnsemblePruner(functions, 2, method="top_k").prune(X, Y, verbose=0)

    expected = np.mean([f(X) for f in functions[:2]], axis=0)
    predicted = ensemble.predict(X, verbose=0)
    np.testing.assert_allclose(predicted, expected, atol=1e-6)
    with pytest.raises(ValueError, match="Keras models or"):
        ensemble.export(tmp_path / "bundle")
    with pytest.raises(ValueError, match="only these can be saved"):
        ensemble.save(tmp_path / "ensemble.keras")
    assert not list(tmp_path.iterdir())


def test_functions_are_evaluated(functions):
    ensemble = kmn.EnsemblePruner(functions, 2, method="top_k").prune(X, Y, verbose=0)
    ensemble.compile(metrics=["accuracy"])
    accuracy = ensemble.evaluate(X, Y, verbose=0, return_dict=True)["accuracy"]
    right = ensemble.predict(X, verbose=0).argmax(-1) == Y
    assert accuracy == pytest.approx(right.mean())


def test_classifiers_by_name():
    classifiers = {
        "linear": LogisticRegression().fit(X, Y),
        "b": GaussianNB().fit(X, Y),
    }
    ensemble = kmn.EnsemblePruner(classifiers, 2, method="top_k").prune(X, Y, verbose=0)

    assert [row.name for row in ensemble.report_.rows] == ["linear", "b"]
    expected = np.mean([c.predict_proba(X) for c in classifiers.values()], axis=0)
    np.testing.assert_allclose(ensemble.predict(X, verbose=0), expected, atol=1e-6)
    alone = kmn.EnsemblePruner([classifiers["b"]], 1).prune(X, Y, verbose=0)
    assert alone.report_.rows[0].name == "GaussianNB"


def test_a_mixture(models, functions, tmp_path):
    models[1].save(tmp_path / "saved.keras")
    mixture = [models[0], tmp_path / "saved.keras", functions[0]]
    ensemble = kmn.EnsemblePruner(mixture, 3, method="top_k").prune(X, Y, verbose=0)

    p = predictions(models)
    expected = (p[0] + p[1] + functions[0](X)) / 3
    np.testing.assert_allclose(ensemble.predict(X, verbose=0), expected, atol=1e-6)
    names = [row.name for row in ensemble.report_.rows]
    assert names == [models[0].name, "saved", "predict_proba"]


@pytest.mark.tensorflow
def test_tflite_files(models, tmp_path):
    paths = []
    for i, model in enumerate([models[1], models[1]]):
        paths.append(tmp_path / f"{i}.tflite")
        kmn.export_tflite(model, paths[-1], representative_data=X)
    ensemble = kmn.EnsemblePruner(paths, 1).prune(X, Y, verbose=0)

    bundle = ensemble.export(tmp_path / "bundle")
    with EnsembleRunner(bundle) as runner:
        np.testing.assert_allclose(
            runner.predict(X), ensemble.predict(X, verbose=0), atol=1e-6
        )


def test_bare_probabilities(models):
    p = predictions(models)
    ensemble = kmn.EnsemblePruner(p, 2, method="cluster", random_state=0)
    ensemble.prune(None, Y)

    expected = selection.cluster(p, Y, 2, random_state=0)
    np.testing.assert_array_equal(ensemble.selection_.indices, expected.indices)
    assert "learner-0" in str(ensemble.report_)
    with pytest.raises(ValueError, match="bare probabilities"):
        ensemble.predict(X, verbose=0)
    with pytest.raises(ValueError, match="x=None"):
        ensemble.prune(X, Y)


@pytest.mark.parametrize("method", ["top_k", "auto", selection.random_k])
def test_methods(models, method):
    ensemble = kmn.EnsemblePruner(models, 2, method=method, random_state=0)
    ensemble.prune(X, Y, verbose=0)

    choose = selection.as_method(method)
    expected = choose(predictions(models), Y, 2, random_state=0)
    np.testing.assert_array_equal(ensemble.selection_.indices, expected.indices)
    if method == "auto":
        assert ensemble.selection_.choice.optimism is not None


def test_weights_of_a_method_are_used(models):
    def uneven(probabilities, y, n_members, *, random_state=None):
        labels = np.zeros(len(probabilities), int)
        return selection.Selection(
            np.array([0, 2]), labels, np.array([0.25, 0.75]), "uneven"
        )

    ensemble = kmn.EnsemblePruner(models, method=uneven, temperature=None)
    ensemble.prune(X, Y, verbose=0)

    p = predictions(models)
    expected = 0.25 * p[0] + 0.75 * p[2]
    np.testing.assert_allclose(ensemble.predict(X, verbose=0), expected, atol=1e-6)
    likelihood = expected[range(90), Y]
    assert ensemble.report_.ensemble["negative_log_likelihood"] == pytest.approx(
        -np.log(likelihood).mean(), abs=1e-6
    )


def test_mean_logits(models):
    ensemble = kmn.EnsemblePruner(
        models, 2, method="cluster", combination="logit", random_state=0
    )
    ensemble.prune(X, Y, verbose=0)
    kept = predictions(models)[ensemble.selection_.indices]
    np.testing.assert_allclose(
        ensemble.predict(X, verbose=0),
        combine(kept, rule="logit", temperature=ensemble.temperature_),
        atol=1e-5,
    )


def test_a_budget(models):
    costs = [1.0, 2.0, 3.0, 4.0]
    ensemble = kmn.EnsemblePruner(models, budget=4.0, costs=costs)
    ensemble.prune(X, Y, verbose=0)
    expected = selection.within_budget(predictions(models), Y, 4.0, costs=costs)
    np.testing.assert_array_equal(ensemble.selection_.indices, expected.indices)

    size = max(row.gzip_bytes for row in ensemble.report_.rows)
    ensemble = kmn.EnsemblePruner(models, budget=2 * size).prune(X, Y, verbose=0)
    assert ensemble.report_.ensemble["gzip_bytes"] <= 2 * size


class TestBadInput:
    def test_unknown_learners(self):
        for wrong in (3, "pool", np.zeros((2, 2))):
            with pytest.raises(TypeError, match="Expected a LearnerPool"):
                kmn.EnsemblePruner(wrong)
        with pytest.raises(TypeError, match=r"Received: int"):
            kmn.EnsemblePruner([3])
        with pytest.raises(ValueError, match="Received: none"):
            kmn.EnsemblePruner([])

    def test_learners_of_different_classes(self, models):
        mixture = [models[0], lambda x: np.full((len(x), 2), 0.5)]
        with pytest.raises(ValueError, match=r"same classes.*shape \(90, 2\)"):
            kmn.EnsemblePruner(mixture, 1).prune(X, Y, verbose=0)

    def test_unknown_costs(self, functions):
        with pytest.raises(ValueError, match="gzip_bytes are known"):
            kmn.EnsemblePruner(functions, budget=10).prune(X, Y, verbose=0)

    def test_a_clusterer_for_another_method(self, models):
        ensemble = kmn.EnsemblePruner(models, method="top_k", clusterer=object())
        with pytest.raises(ValueError, match=r"one of .*'cluster'"):
            ensemble.prune(X, Y, verbose=0)

    def test_an_unknown_method(self, models):
        with pytest.raises(ValueError, match="'magic'"):
            kmn.EnsemblePruner(models, method="magic").prune(X, Y, verbose=0)


def test_the_report_as_a_page(models, tmp_path):
    pytest.importorskip("matplotlib")
    ensemble = kmn.EnsemblePruner(models, [1, 2], method="auto", random_state=0)
    with pytest.raises(ValueError, match="no members yet"):
        ensemble.write_report(tmp_path / "page.html", X, Y)
    ensemble.prune(X, Y, verbose=0)

    page = ensemble.write_report(
        tmp_path / "page.html", X, Y, n_resamples=2, title="Mine"
    ).read_text()

    assert "<h1>Mine</h1>" in page
    assert models[0].name in page
    assert "How the members were chosen" in page
    assert "Nested resampling, which repeats the choice in each outer fold" in page
    assert str(ensemble.selection_.choice) in str(ensemble.report_)


def test_the_page_shows_the_ensemble_as_it_is_combined(models, tmp_path):
    pytest.importorskip("matplotlib")
    ensemble = kmn.EnsemblePruner(
        models, 3, method="cluster", combination="logit", random_state=0
    )
    ensemble.prune(X, Y, verbose=0)

    page = ensemble.write_report(tmp_path / "page.html", X, Y, n_resamples=2)

    scores = ensemble.report_.ensemble
    shown = f"(NLL {scores['negative_log_likelihood']:.3f}, ECE "
    assert shown in page.read_text()
    mean = predictions(models)[ensemble.selection_.indices].mean(axis=0)
    loss = selection.negative_log_likelihood(mean, Y)
    assert f"{loss:.3f}" not in shown


def test_the_page_of_bare_probabilities_has_the_weights_too(models, tmp_path):
    pytest.importorskip("matplotlib")
    ensemble = kmn.EnsemblePruner(predictions(models), 3, combination="weights")
    ensemble.prune(None, Y)

    page = ensemble.write_report(tmp_path / "page.html", None, Y, n_resamples=2)

    loss = ensemble.report_.ensemble["negative_log_likelihood"]
    assert f"(NLL {loss:.3f}, ECE " in page.read_text()
