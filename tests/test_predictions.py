import keras
import numpy as np
import pytest
from backends import BACKEND
from model_cases import outputs
from tiny_keras import data, dense_model

from keras_micronets import LearnerPool, layers
from keras_micronets.callbacks.mask_updates import prune
from keras_micronets.export import export_tflite
from keras_micronets.learners import predictions
from keras_micronets.selection.validation import check_probabilities

X, _ = data(50)


@pytest.fixture
def pool(tmp_path):
    """Return three learners of one architecture and different sparsity."""
    pool = LearnerPool(tmp_path / "pool")
    for seed in range(3):
        model = dense_model(seed)
        layers.prepare(model)
        prune(model, seed / 4)
        pool.add(model, name=f"net-{seed}")
    return pool


@pytest.fixture
def counted(monkeypatch):
    """Count the models that are loaded and the learners that predict."""
    calls = {"loaded": 0, "predicted": 0}
    load, predict = keras.saving.load_model, predictions.Predictor.predict

    def counting_load(*args, **kwargs):
        calls["loaded"] += 1
        return load(*args, **kwargs)

    def counting_predict(*args):
        calls["predicted"] += 1
        return predict(*args)

    monkeypatch.setattr(keras.saving, "load_model", counting_load)
    monkeypatch.setattr(predictions.Predictor, "predict", counting_predict)
    return calls


def expected(pool, x=X):
    predicted = np.stack([outputs(learner.load(), x) for learner in pool])
    # Fake quantisers round probabilities, so that their sum may differ from one.
    return predicted / predicted.sum(axis=-1, keepdims=True)


def cache_files(pool):
    return sorted((pool.path / "predictions").rglob("*.npy"))


def test_predictions_equal_those_of_keras(pool):
    predicted = pool.predict(X, verbose=0)
    assert predicted.shape == (3, 50, 3)
    assert predicted.dtype == np.float32
    np.testing.assert_allclose(predicted, expected(pool), atol=1e-6)
    check_probabilities(predicted)


def test_logits_become_probabilities(tmp_path):
    pool, model = LearnerPool(tmp_path / "pool"), dense_model(activation=None)
    pool.add(model, from_logits=True)
    softmax = keras.ops.softmax(outputs(model, X))
    np.testing.assert_allclose(pool.predict(X, verbose=0)[0], softmax, atol=1e-6)


def test_undeclared_logits_are_rejected_by_a_selection(tmp_path):
    pool = LearnerPool(tmp_path / "pool")
    assert pool.add(dense_model(activation=None)).from_logits is None
    with pytest.raises(ValueError, match=r"may be logits: pass `from_logits=True`"):
        check_probabilities(pool.predict(X, verbose=0))


def test_one_architecture_is_loaded_and_traced_once(tmp_path, counted):
    traces = []

    @keras.saving.register_keras_serializable(package="test_predictions")
    class Traced(keras.layers.Layer):
        def call(self, inputs):
            traces.append(inputs)
            return inputs

    def predict(n_learners):
        pool = LearnerPool(tmp_path / str(n_learners))
        for seed in range(n_learners):
            keras.utils.set_random_seed(seed)
            layers = [keras.layers.Dense(3), keras.layers.Softmax()]
            pool.add(keras.Sequential([keras.Input((8,)), Traced(), *layers]))
        reference = expected(pool)
        counted.update(loaded=0, predicted=0)
        traces.clear()
        predicted = pool.predict(X, verbose=0, batch_size=20)
        np.testing.assert_allclose(predicted, reference, atol=1e-6)
        assert counted == {"loaded": 1, "predicted": n_learners}
        return len(traces)

    several, one = predict(5), predict(1)
    assert several == one > 0 or BACKEND == "torch"  # which traces nothing


def test_predictions_are_cached_on_disk(pool, counted):
    first = pool.predict(X, verbose=0)
    assert counted["predicted"] == 3
    np.testing.assert_array_equal(pool.predict(X, verbose=0), first)
    again = LearnerPool(pool.path).predict(X.copy(order="F"), verbose=0, batch_size=7)
    np.testing.assert_array_equal(again, first)
    assert counted["predicted"] == 3
    assert len(cache_files(pool)) == 3


def test_other_data_are_predicted_again(pool, counted):
    pool.predict(X, verbose=0)
    changed = X.copy()
    changed[-1, -1] += 1e-3
    for number, x in enumerate((changed, X[:-1], X.astype("float64")), 2):
        predicted = pool.predict(x, verbose=0)
        assert counted["predicted"] == 3 * number
        assert predicted.shape == (3, len(x), 3)
    pool.predict(X, verbose=0)
    assert counted["predicted"] == 12


def test_a_new_learner_is_predicted_alone(pool, counted):
    first = pool.predict(X, verbose=0)
    pool.add(dense_model(3), name="net-1b")
    predicted = pool.predict(X, verbose=0)
    assert counted["predicted"] == 4
    np.testing.assert_array_equal(predicted[[0, 1, 3]], first)


def test_another_learner_of_the_same_name_is_predicted_again(pool, counted):
    first = pool.predict(X, verbose=0)
    folder = pool["net-1"].directory
    folder.rename(pool.path / "elsewhere")
    pool.refresh()
    pool.add(dense_model(9), name="net-1")
    predicted = pool.predict(X, verbose=0)
    assert counted["predicted"] == 4
    assert np.abs(predicted[1] - first[1]).max() > 0.01
    np.testing.assert_allclose(predicted, expected(pool), atol=1e-6)


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "nonsense", "gone"])
def test_a_damaged_file_is_predicted_again(pool, counted, damage):
    first = pool.predict(X, verbose=0)
    path = cache_files(pool)[1]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 64
    if damage == "gone":
        path.unlink()
    else:
        changes = {"flip": bytes(content), "truncate": content[:-9]}
        path.write_bytes(changes.get(damage, b"nonsense" * (damage == "nonsense")))
    np.testing.assert_array_equal(pool.predict(X, verbose=0), first)
    assert counted["predicted"] == 4
    pool.predict(X, verbose=0)
    assert counted["predicted"] == 4


def test_a_growing_pool_keeps_its_compiled_model(pool, counted):
    pool.predict(X, verbose=0)
    layers.prepare(model := dense_model(7))
    pool.add(model, name="net-3")
    predicted = pool.predict(X, verbose=0)
    assert counted == {"loaded": 1, "predicted": 4}
    np.testing.assert_allclose(predicted, expected(pool), atol=1e-6)


def test_numpy_reads_a_cached_file(pool):
    predicted = pool.predict(X, verbose=0)
    kept = [np.load(path, allow_pickle=False) for path in cache_files(pool)]
    assert sorted(map(np.sum, kept)) == sorted(map(np.sum, predicted))


@pytest.mark.tensorflow
def test_different_architectures_and_files_in_one_pool(pool, counted, tmp_path):
    pool.add(dense_model(4, width=5), name="a-narrow")
    pool.add(dense_model(5, width=5), name="z-narrow")
    export_tflite(dense_model(6), tmp_path / "net.tflite", quantization=None)
    pool.add_tflite(tmp_path / "net.tflite", name="m-file")
    assert [learner.name for learner in pool][::4] == ["a-narrow", "net-2"]
    predicted = pool.predict(X, verbose=0)
    assert counted["loaded"] == 2
    keras_learners = [i for i, learner in enumerate(pool) if learner.is_keras]
    for i in keras_learners:
        np.testing.assert_allclose(predicted[i], outputs(pool[i].load(), X), atol=1e-6)
    np.testing.assert_allclose(predicted[1], outputs(dense_model(6), X), atol=1e-5)


def test_a_dense_and_a_quantized_model_of_the_same_layers_differ(pool):
    model = dense_model(7)
    layers.prepare(model, quantize=True)
    layers.set_quantizers(model, True)
    model(X, training=True)
    pool.add(model, name="quantized")
    plain = pool.add(dense_model(8), name="plain")
    assert len({learner.architecture for learner in pool}) == 3
    predicted = pool.predict(X, verbose=0)
    np.testing.assert_allclose(predicted, expected(pool), atol=1e-6)
    check_probabilities(predicted)
    assert pool.add(dense_model(9)).architecture == plain.architecture


def test_learners_of_other_classes_are_rejected(pool):
    pool.add(
        keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)]), name="odd-one"
    )
    with pytest.raises(ValueError, match=r"same classes.*odd-one with .4"):
        pool.predict(X, verbose=0)
    assert not (pool.path / "predictions").exists()


def test_data_of_another_shape_are_rejected(pool):
    with pytest.raises(ValueError, match="shape"):
        pool.predict(X[:, :5], verbose=0)
    assert cache_files(pool) == []


def test_a_progress_bar_shows(pool, capsys):
    pool.predict(X)
    assert "3/3" in capsys.readouterr().out
    pool.predict(X, verbose=0)
    assert capsys.readouterr().out == ""
