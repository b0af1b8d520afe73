import warnings

import keras
import numpy as np
import pytest
from model_cases import MODELS, SHAPE, images, labels, outputs, residual, sequential

from keras_micronets import _keras_private
from keras_micronets.layers import kernels, prepare, quantized_share, set_quantizers
from keras_micronets.layers.litert.capabilities import plain_class
from keras_micronets.layers.micro.micro_layer import is_micro_layer
from keras_micronets.layers.quantization import quantizers

both_ways = pytest.mark.parametrize("quantize", [False, True])
every_model = pytest.mark.parametrize("kind", MODELS)


def fitted(kind):
    model = MODELS[kind]()
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
    model.compile(optimizer, "sparse_categorical_crossentropy")
    model.fit(images(), labels(), epochs=1, verbose=0)
    return model


def plain_layers(model):
    return [
        layer
        for layer in _keras_private.flatten_layers(model)
        if type(layer).__module__.startswith(("keras.", "keras_micronets.layers"))
        and not layer.name.endswith(("_mask", "_quantizer"))
    ]


@pytest.fixture
def arithmetic_as_written():
    """Keep TensorFlow from reordering sums in a graph, which changes the last digit."""
    if keras.backend.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf

    options = tf.config.optimizer
    before = options.get_experimental_options().get("arithmetic_optimization", True)
    options.set_experimental_options({"arithmetic_optimization": False})
    yield
    options.set_experimental_options({"arithmetic_optimization": before})


@both_ways
@every_model
def test_predicts_exactly_as_before(kind, quantize, arithmetic_as_written):
    model = fitted(kind)
    eager, compiled = outputs(model), model.predict(images(), verbose=0)
    prepare(model, quantize=quantize)
    np.testing.assert_array_equal(outputs(model), eager)
    after = model.predict(images(), verbose=0)
    rtol = 1e-6 if keras.backend.backend() == "jax" else 0  # XLA fuses differently
    np.testing.assert_allclose(after, compiled, rtol=rtol, atol=rtol)


@pytest.mark.tensorflow
@every_model
@pytest.mark.slow
def test_predicts_as_before_when_tensorflow_reorders_sums(kind):
    model = fitted(kind)
    compiled = model.predict(images(), verbose=0)
    prepare(model)
    np.testing.assert_array_equal(model.predict(images(), verbose=0), compiled)
    prepare(model, quantize=True)
    after = model.predict(images(), verbose=0)
    np.testing.assert_allclose(after, compiled, rtol=1e-6, atol=1e-7)


@both_ways
@every_model
def test_layers_names_and_weights_survive(kind, quantize):
    model = MODELS[kind]()
    layers, names = plain_layers(model), [x.name for x in plain_layers(model)]
    weights = [np.array(v) for v in model.trainable_weights]
    paths = [v.path for v in model.trainable_variables]
    preparation = prepare(model, quantize=quantize)
    assert all(x is y for x, y in zip(plain_layers(model), layers, strict=True))
    assert [layer.name for layer in layers] == names
    assert [v.path for v in model.trainable_variables] == paths
    for before, after in zip(weights, model.trainable_weights, strict=True):
        np.testing.assert_array_equal(np.array(after), before)
    micro_names = {layer.name for layer in layers if is_micro_layer(layer)}
    assert set(preparation.prepared) == micro_names
    assert {kernel.layer.name for kernel in kernels(model)} <= micro_names


@every_model
def test_get_weights_of_a_kernel_is_raw(kind):
    model = MODELS[kind]()
    layer = next(x for x in plain_layers(model) if x.name in ("conv", "conv1", "head"))
    kernel, *others = layer.get_weights()
    prepare(model, quantize=True)
    set_quantizers(model, True)
    model(images(), training=True)
    np.testing.assert_array_equal(layer.get_weights()[0], kernel)
    np.testing.assert_array_equal(layer.get_weights()[1], others[0])
    effective = keras.ops.convert_to_numpy(layer.effective_kernel())
    assert np.abs(effective - kernel).max() > 0


@both_ways
@every_model
def test_optimizer_state_survives_and_training_continues(kind, quantize):
    control, model = fitted(kind), fitted(kind)
    control.set_weights(model.get_weights())
    for source, target in zip(
        model.optimizer.variables, control.optimizer.variables, strict=True
    ):
        target.assign(np.array(source))  # JAX would have both share a buffer
    before = {v.path: np.array(v) for v in model.optimizer.variables}
    prepare(model, quantize=quantize)
    assert {v.path for v in model.optimizer.variables} == set(before)
    for variable in model.optimizer.variables:
        np.testing.assert_array_equal(np.array(variable), before[variable.path])
    for trained in (control, model):
        trained.fit(images(), labels(), epochs=1, verbose=0, shuffle=False)
    for expected, weight in zip(
        control.trainable_weights, model.trainable_weights, strict=True
    ):
        np.testing.assert_allclose(np.array(weight), np.array(expected), atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "quantize"), [("sequential", False), *((kind, True) for kind in MODELS)]
)
def test_second_time_changes_nothing(kind, quantize):
    model = fitted(kind)
    prepare(model, quantize=quantize)
    next(iter(kernels(model))).set_mask(np.zeros(kernels(model)[0].mask.shape, bool))
    model.fit(images(), labels(), epochs=1, verbose=0)
    step, variables = model.train_function, list(model.variables)
    expected = outputs(model)
    again = prepare(model, quantize=quantize)
    assert again.prepared == again.skipped == again.floating == ()
    assert model.train_function is step
    assert all(x is y for x, y in zip(model.variables, variables, strict=True))
    np.testing.assert_array_equal(outputs(model), expected)


@every_model
def test_quantisers_can_be_added_later(kind):
    model = MODELS[kind]()
    prepare(model)
    kernel = kernels(model)[0]
    mask = np.arange(kernel.size).reshape(kernel.mask.shape) % 2 == 0
    kernel.set_mask(mask)
    assert quantizers(model) == []
    preparation = prepare(model, quantize=True)
    assert preparation.prepared
    assert quantizers(model)
    np.testing.assert_array_equal(kernel.mask, mask)


def test_new_steps_are_compiled_with_the_masks():
    model = fitted("sequential")
    model.predict(images(), verbose=0)
    prepare(model)
    assert model.train_function is model.predict_function is None
    for kernel in kernels(model):
        kernel.set_mask(np.zeros(kernel.mask.shape, bool))
    kernels(model)[0].variable.assign_add(np.ones(kernels(model)[0].mask.shape))
    predicted = model.predict(images(), verbose=0)
    assert np.ptp(predicted, axis=0).max() == 0  # nothing of the image comes through


def test_prepared_layer_is_an_instance_of_the_plain_one():
    model = sequential()
    prepare(model)
    conv = model.get_layer("conv")
    assert isinstance(conv, keras.layers.Conv2D)
    assert plain_class(conv) is keras.layers.Conv2D


def with_first(layer, shape=(8,)):
    model = keras.Sequential([keras.Input(shape), layer, keras.layers.Dense(2)])
    return model


def test_leaves_layers_that_keras_quantised():
    model = with_first(keras.layers.Dense(4, name="theirs"))
    model.get_layer("theirs").quantize("int8")
    expected = outputs(model, images(shape=(8,)))
    preparation = prepare(model, quantize=True)
    assert not is_micro_layer(model.get_layer("theirs"))
    assert "theirs" not in preparation.prepared
    np.testing.assert_array_equal(outputs(model, images(shape=(8,))), expected)


def test_leaves_layers_with_lora():
    model = with_first(keras.layers.Dense(4, name="theirs"))
    model.get_layer("theirs").enable_lora(2)
    preparation = prepare(model)
    assert not is_micro_layer(model.get_layer("theirs"))
    assert preparation.skipped == ("theirs (Dense): it has LoRA weights",)


@both_ways
def test_skips_unknown_kernels_and_names_them(quantize):
    model = keras.Sequential(
        [
            keras.Input((5,), dtype="int32"),
            keras.layers.Embedding(10, 4),
            keras.layers.RNN(
                keras.layers.GRUCell(3, name="words"), return_sequences=True
            ),
            keras.layers.RNN(keras.layers.LSTMCell(3, name="memory")),
            keras.layers.Dense(2, name="head"),
        ]
    )
    x = np.random.default_rng(0).integers(0, 10, (4, 5))
    expected = outputs(model, x)
    preparation = prepare(model, quantize=quantize)
    assert "head" in preparation.prepared
    assert preparation.skipped == (
        "words (GRUCell): it has no micro layer",
        "memory (LSTMCell): it has no micro layer",
    )
    np.testing.assert_array_equal(outputs(model, x), expected)
    with pytest.warns(UserWarning, match="words"):
        preparation_without_floating(preparation).warn()


def preparation_without_floating(preparation):
    return type(preparation)(preparation.prepared, preparation.skipped)


def test_warns_once():
    model = residual()
    preparation = prepare(model, quantize=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        preparation.warn()
    many = type(preparation)((), tuple(f"layer_{i}" for i in range(7)))
    with pytest.warns(UserWarning, match=r"7 layers .*layer_4, \.\.\.$"):
        many.warn()


def test_rejects_a_model_that_is_not_built():
    model = keras.Sequential([keras.layers.Dense(2)], name="bare")
    with pytest.raises(ValueError, match=r"Expected a built model.*'bare'"):
        prepare(model)


@both_ways
def test_rejects_a_model_with_nothing_to_prune(quantize):
    model = keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten(name="flat")])
    with pytest.raises(ValueError, match=r"layers to prune.*flat"):
        prepare(model, quantize=quantize)
    assert not is_micro_layer(model.get_layer("flat"))


def test_quantisers_begin_inactive():
    model = residual()
    prepare(model, quantize=True)
    assert quantized_share(model) == 0.0
    assert len(quantizers(model)) > 5


@pytest.mark.parametrize("kind", ["sequential", "residual", "nested", "shared"])
def test_prepared_model_saves_and_loads(kind, tmp_path):
    model = MODELS[kind]()
    prepare(model, quantize=True)
    rng = np.random.default_rng(0)
    for kernel in kernels(model):
        kernel.set_mask(rng.random(kernel.mask.shape) > 0.5)
    set_quantizers(model, True)
    model(images(), training=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(outputs(loaded), outputs(model))
    for old, new in zip(kernels(model), kernels(loaded), strict=True):
        np.testing.assert_array_equal(new.weights, old.weights)
        np.testing.assert_array_equal(new.mask, old.mask)
    assert prepare(loaded, quantize=True).prepared == ()


def test_rejects_a_model_whose_layers_keras_quantised():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.layers[0].enable_lora(1)

    with pytest.raises(ValueError, match="LoRA"):
        prepare(model)
    assert type(model.layers[0]) is keras.layers.Dense
