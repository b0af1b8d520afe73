"""Keras's own methods and settings on prepared models."""

import keras
import numpy as np
import pytest

from keras_micronets import callbacks, observers, strip
from keras_micronets.layers import (
    Scope,
    clone,
    count_params,
    keeps_state,
    kernels,
    plain_weights,
    prepare,
    set_quantizers,
)
from keras_micronets.schedules import Constant

X = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
Y = np.arange(32) % 3


def net(**inner):
    hidden = keras.layers.Dense(8, activation="relu", name="hidden", **inner)
    return compiled(
        keras.Sequential(
            [keras.Input((6,)), hidden, keras.layers.Dense(3, name="head")]
        )
    )


def compiled(model):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    return model


def outputs(model):
    return keras.ops.convert_to_numpy(model(X, training=False))


@pytest.mark.parametrize("quantize", [False, True])
def test_plain_weights_and_counts(quantize):
    model = net()
    before = model.get_weights()
    assert count_params(model) == model.count_params() == 6 * 8 + 8 + 8 * 3 + 3
    prepare(model, quantize=quantize)
    assert count_params(model) == 83 < model.count_params()
    assert count_params(model.get_layer("head")) == 27
    for weight, value in zip(plain_weights(model), before, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(weight), value)
    assert count_params(strip(model)) == 83


def test_weights_of_a_prepared_model_are_set_again():
    model = net()
    prepare(model)
    kernels(model)[0].set_mask(np.arange(48).reshape(6, 8) % 2 == 0)
    weights, found = model.get_weights(), outputs(model)
    other = net()
    prepare(other)
    other.set_weights(weights)
    np.testing.assert_array_equal(outputs(other), found)
    with pytest.raises(ValueError, match="expecting"):
        other.set_weights(strip(model).get_weights())


@pytest.mark.parametrize("quantize", [False, True])
@pytest.mark.parametrize("make", [keras.layers.Dense, keras.layers.LSTM])
def test_weights_of_a_plain_layer_are_told_where_to_go(make, quantize):
    shape = (6,) if make is keras.layers.Dense else (4, 6)
    model = keras.Sequential([keras.Input(shape), make(5), keras.layers.Dense(3)])
    layer, plain = model.layers[0], model.layers[0].get_weights()
    prepare(model, quantize=quantize)
    with pytest.raises(ValueError, match=r"is prepared.*plain_weights\(layer\)"):
        layer.set_weights(plain)
    for weight, value in zip(plain_weights(layer), plain, strict=True):
        weight.assign(value + 1)
    prepared = layer.get_weights()
    layer.set_weights(prepared)
    for found, value in zip(strip(model).layers[0].get_weights(), plain, strict=True):
        np.testing.assert_array_equal(found, value + 1)


def test_a_layer_with_lora_weights_is_left_alone(tmp_path):
    model = net()
    model.get_layer("hidden").enable_lora(2)
    compiled(model)
    pruning = callbacks.WeightPruning(Constant(0.5), scope=Scope(last=True, small=True))
    with pytest.warns(UserWarning, match="it has LoRA weights"):
        model.fit(X, Y, verbose=0, callbacks=[pruning])
    assert [kernel.path for kernel in kernels(model)] == ["head"]
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for copy in (loaded, clone(model), strip(model)):
        np.testing.assert_array_equal(outputs(copy), outputs(model))


def test_lora_weights_are_added_to_the_stripped_model():
    model = net()
    prepare(model)
    with pytest.raises(ValueError, match=r"'hidden'.*strip\(model\)"):
        model.get_layer("hidden").enable_lora(2)
    plain = strip(model)
    plain.get_layer("hidden").enable_lora(2)
    np.testing.assert_array_equal(outputs(plain), outputs(model))
    assert prepare(plain).prepared == ("head",)


@pytest.mark.filterwarnings("ignore:Layer InputLayer does not have a `quantize`")
def test_keras_quantises_the_stripped_model(tmp_path):
    model = net()
    prepare(model)
    model.save(tmp_path / "model.keras")
    before = outputs(model)
    for one in (
        model,
        keras.saving.load_model(tmp_path / "model.keras", compile=False),
    ):
        for part in (one, one.get_layer("hidden")):
            with pytest.raises(ValueError, match=r"prepared.*strip\(model\)"):
                part.quantize("int8")
        np.testing.assert_array_equal(outputs(one), before)
    plain = strip(model)
    plain.quantize("int8")
    np.testing.assert_allclose(outputs(plain), before, atol=0.1)


@keras.saving.register_keras_serializable("tests")
class Block(keras.layers.Layer):
    """A layer of another package, which makes layers of its own."""

    def build(self, shape):
        self.inner = keras.layers.TimeDistributed(keras.layers.Dense(shape[-1]))
        self.inner.build(shape)

    def call(self, x):
        return self.inner(x)


@pytest.mark.parametrize("outer", ["Block", "TimeDistributed", "MultiHeadAttention"])
def test_files_keep_the_quantisers_that_keras_restores(outer):
    inputs = keras.Input((4, 6))
    read = {
        "Block": lambda x: Block()(x),
        "TimeDistributed": keras.layers.TimeDistributed(keras.layers.Dense(6)),
        "MultiHeadAttention": lambda x: keras.layers.MultiHeadAttention(1, 6)(x, x),
    }[outer]
    model = keras.Model(inputs, keras.layers.Dense(3)(read(inputs)))
    prepare(model, quantize=True)
    assert keeps_state(model)
    set_quantizers(model, True)
    assert keeps_state(model) == (outer != "Block")
    assert keeps_state(clone(model)) == (outer != "Block")


CALLBACKS = {
    "pruning": lambda path: callbacks.WeightPruning(0.5),
    "steps": lambda path: callbacks.WeightPruning(
        keras.optimizers.schedules.PolynomialDecay(0.0, 4, 0.5)
    ),
    "guard": lambda path: callbacks.WeightPruning(
        0.5, guard=callbacks.AccuracyGuard(monitor="accuracy")
    ),
    "sparse": lambda path: callbacks.DynamicSparseTraining(0.5, growth="random"),
    "quantisation": lambda path: callbacks.QuantizationAwareTraining(start=0.5),
    "learned": lambda path: callbacks.QuantizationAwareTraining(
        observer=observers.LearnedStepSize()
    ),
    "channels": lambda path: callbacks.ChannelPruning(
        macs=0.8, round_to=1, min_channels=1
    ),
    "cycles": lambda path: callbacks.LearnerCycles.snapshot(path, 2),
    "checkpoint": lambda path: callbacks.LearnerCheckpoint(path),
}


@pytest.mark.parametrize("kind", CALLBACKS)
def test_a_fit_of_no_epochs_prepares_only(kind, tmp_path):
    model, callback = net(), CALLBACKS[kind](tmp_path)
    before = outputs(model)
    stop = keras.callbacks.EarlyStopping("loss", restore_best_weights=True)
    model.fit(X, Y, epochs=0, verbose=0, callbacks=[callback, stop])
    np.testing.assert_allclose(outputs(model), before, atol=1e-6)
    np.testing.assert_allclose(outputs(strip(model)), before, atol=1e-6)
    model.fit(X, Y, epochs=4, batch_size=32, verbose=0, callbacks=[callback])
    if kind not in ("cycles", "checkpoint"):
        assert kernels(model)
    assert int(keras.ops.convert_to_numpy(model.optimizer.iterations)) == 4


@pytest.mark.parametrize("kind", ["pruning", "learned"])
@pytest.mark.filterwarnings("ignore:1 layers are not trained")
def test_layers_frozen_after_the_optimizer_was_built(kind, tmp_path):
    if keras.backend.backend() == "jax" and kind == "pruning":
        pytest.skip("Keras itself raises an error on JAX: compile again")
    model = net()
    model.fit(X, Y, verbose=0)
    hidden = model.get_layer("hidden")
    hidden.trainable = False
    before = hidden.get_weights()[:2]
    model.train_function = None  # Keras's own step does not notice
    model.fit(X, Y, epochs=2, verbose=0, callbacks=[CALLBACKS[kind](tmp_path)])
    for weight, value in zip(hidden.get_weights()[:2], before, strict=True):
        np.testing.assert_array_equal(weight, value)
    hidden.trainable = True
    compiled(model)
    model.fit(X, Y, verbose=0)
    assert not np.array_equal(hidden.get_weights()[0], before[0])


@pytest.mark.tensorflow
@pytest.mark.parametrize("kind", ["pruning", "learned"])
def test_trains_under_a_distribution_strategy(kind, tmp_path):
    import tensorflow as tf

    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        model = net()
    model.fit(X, Y, verbose=0)
    model.fit(X, Y, epochs=2, verbose=0, callbacks=[CALLBACKS[kind](tmp_path)])
    for variable in model.variables:
        assert variable.value.distribute_strategy is strategy
    model.fit(X, Y, verbose=0)
    assert model.optimizer.iterations.value.numpy() == 4
