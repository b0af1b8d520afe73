import keras
import model_cases
import numpy as np
import pytest
from tiny_keras import compiled, data, norm_model

from keras_micronets import layers

RANGES, STATISTICS = ("lower", "upper"), ("moving_mean", "moving_variance")
WEIGHTS = ("kernel", "gamma", "beta")


def quantised():
    model = compiled(norm_model())
    layers.prepare(model, quantize=True)
    layers.set_quantizers(model, True)
    train(model)
    return model


def train(model, scale=1.0):
    x, y = data()
    model.fit(scale * x, y, batch_size=8, shuffle=False, verbose=0)


def values(model, names):
    """Return the variables with these names, by path."""
    return {
        v.path: keras.ops.convert_to_numpy(v)
        for v in model.variables
        if v.path.rsplit("/", 1)[1] in names
    }


def moved(before, after):
    assert before
    return [path for path in before if np.any(before[path] != after[path])]


@pytest.mark.parametrize("observers", [False, True])
@pytest.mark.parametrize("statistics", [False, True])
@pytest.mark.slow
def test_frozen_state_stays_in_a_compiled_step(observers, statistics):
    model = quantised()
    layers.freeze(model, observers=observers, statistics=statistics)
    before = {names: values(model, names) for names in (RANGES, STATISTICS, WEIGHTS)}
    train(model, scale=2.0)
    changed = {names: moved(before[names], values(model, names)) for names in before}
    assert bool(changed[RANGES]) is not observers
    assert bool(changed[STATISTICS]) is not statistics
    assert len(changed[WEIGHTS]) == 4


def test_unfrozen_state_moves_again():
    model = quantised()
    layers.freeze(model, observers=True, statistics=True)
    train(model)
    layers.freeze(model)
    before = values(model, RANGES), values(model, STATISTICS)
    train(model)
    assert moved(before[0], values(model, RANGES))
    assert len(moved(before[1], values(model, STATISTICS))) == 2


def test_freezing_is_not_saved(tmp_path):
    model = quantised()
    layers.freeze(model, observers=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    before = values(loaded, RANGES)
    train(loaded)
    assert moved(before, values(loaded, RANGES))


def test_nothing_is_compiled_again_without_a_change():
    model = quantised()
    compiled_step = model.train_function
    layers.freeze(model)
    assert model.train_function is compiled_step


@pytest.mark.parametrize("kind", ["residual", "nested", "subclassed"])
def test_training_with_frozen_statistics_computes_as_inference(kind):
    model = model_cases.MODELS[kind]()
    layers.prepare(model, quantize=True)
    layers.set_quantizers(model, True)
    x = model_cases.images()
    model(x, training=True)
    layers.freeze(model, observers=True, statistics=True)
    # Inference rounds as LiteRT does: a few halves are rounded the other way.
    difference = np.abs(difference_of_training(model, x))
    assert np.mean(difference > 1e-5) < 0.05
    assert difference.max() < 0.05
    layers.set_quantizers(model, False)
    np.testing.assert_allclose(difference_of_training(model, x), 0.0, atol=1e-5)


def difference_of_training(model, x):
    outputs = keras.ops.convert_to_numpy(model(x, training=True))
    return outputs - model_cases.outputs(model, x)
