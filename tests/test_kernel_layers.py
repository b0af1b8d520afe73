import keras
import numpy as np
import pytest
from backends import gradients
from keras import ops
from micro_layer_cases import (
    CASES,
    PLAIN,
    inputs,
    mask_and_quantize,
    micro_class,
    micro_model,
    plain_model,
    predict,
    resolve,
    state,
)

from keras_micronets.edge.member import Member, quantize
from keras_micronets.export.conversion.converter import convert
from keras_micronets.export.flatbuffer import read_flatbuffer
from keras_micronets.layers import constant_quantizers, kernels, quantized_share
from keras_micronets.layers.quantizers.kernel import SMALLEST_KERNEL_RANGE

HOW = ("direct", "prepared")
# LiteRT has no such operation.
NOT_ON_DEVICES = ("transpose-dilation",)


def kernel_state(model):
    return [(k.path, k.weights, k.mask) for k in kernels(model)]


def assert_same(model, other):
    """Assert that all state is equal and effective kernels differ from raw ones."""
    before, after = state(model), state(other)
    assert len(before) == len(after)
    for value, restored in zip(before.values(), after.values(), strict=True):
        np.testing.assert_array_equal(restored, value)
    for old, new in zip(kernel_state(model), kernel_state(other), strict=True):
        assert new[0] == old[0]
        np.testing.assert_array_equal(new[1], old[1])
        np.testing.assert_array_equal(new[2], old[2])
    np.testing.assert_array_equal(predict(other), predict(model))


def raw_and_effective(model):
    layer = model.get_layer("only")
    for name in layer.kernel_names:
        yield (
            getattr(layer, name).numpy(),
            ops.convert_to_numpy(layer.effective_kernel(name)),
        )


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("case", PLAIN)
def test_keras_file_restores_everything(case, how, tmp_path):
    model = mask_and_quantize(micro_model(case, how))
    for raw, effective in raw_and_effective(model):
        assert np.abs(raw - effective).max() > 0  # or the test would show nothing
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.get_layer("only")) is micro_class(case)
    assert loaded.get_layer("only").quantizers == model.get_layer("only").quantizers
    assert quantized_share(loaded) == 1.0
    assert_same(model, loaded)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("case", PLAIN)
def test_weights_file_restores_everything(case, how, tmp_path):
    model = mask_and_quantize(micro_model(case, how))
    model.save_weights(tmp_path / "model.weights.h5")
    other = micro_model(case, how)
    other.load_weights(tmp_path / "model.weights.h5")
    assert_same(model, other)


@pytest.mark.parametrize("case", PLAIN)
def test_prepared_and_constructed_layers_share_weight_files(case, tmp_path):
    model = mask_and_quantize(micro_model(case, "prepared"))
    model.save_weights(tmp_path / "model.weights.h5")
    other = micro_model(case, "direct")
    other.load_weights(tmp_path / "model.weights.h5")
    assert kernel_state(other)[0][2].sum() == kernel_state(model)[0][2].sum()
    np.testing.assert_array_equal(predict(other), predict(model))


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("case", PLAIN)
def test_reads_the_weight_file_of_a_plain_layer(case, how, tmp_path):
    plain = plain_model(case)
    plain.save_weights(tmp_path / "plain.weights.h5")
    micro = mask_and_quantize(micro_model(case, how))
    micro.load_weights(tmp_path / "plain.weights.h5")
    assert all(kernel.mask.all() for kernel in kernels(micro))
    assert quantized_share(micro) == 0.0
    for kernel, variable in zip(kernels(micro), plain.weights, strict=False):
        np.testing.assert_array_equal(kernel.weights, variable.numpy())
    np.testing.assert_array_equal(predict(micro), predict(plain))


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("case", PLAIN)
def test_plain_layer_reads_the_weight_file_of_a_micro_layer(case, how, tmp_path):
    micro = mask_and_quantize(micro_model(case, how))
    micro.save_weights(tmp_path / "model.weights.h5")
    plain = plain_model(case)
    plain.load_weights(tmp_path / "model.weights.h5")
    for kernel, variable in zip(kernels(micro), plain.weights, strict=False):
        np.testing.assert_array_equal(variable.numpy(), kernel.weights)


@pytest.mark.parametrize("case", PLAIN)
def test_config_round_trip(case):
    layer = micro_model(case).get_layer("only")
    config = layer.get_config()
    copy = type(layer).from_config(config)
    assert type(copy) is type(layer)
    assert copy.get_config() == config
    serialized = keras.saving.serialize_keras_object(layer)
    restored = keras.saving.deserialize_keras_object(serialized)
    assert type(restored) is type(layer)
    assert restored.get_config() == config


@pytest.mark.parametrize("case", CASES)
def test_computes_what_the_plain_layer_computes(case):
    plain, micro = plain_model(case), micro_model(case)
    micro.set_weights(plain.get_weights() + micro.get_weights()[len(plain.weights) :])
    np.testing.assert_allclose(predict(micro), predict(plain), atol=1e-6)
    assert micro.output_shape == plain.output_shape


@pytest.mark.parametrize("case", ["conv1d", "conv2d", "depthwise", "separable"])
def test_channels_first(case):
    plain = plain_model(case, data_format="channels_first")
    try:
        expected = predict(plain)
    except Exception as error:
        pytest.skip(f"not on this CPU: {type(error).__name__}")
    _, arguments, shape = resolve(case)
    layer = micro_class(case)(**arguments, data_format="channels_first")
    micro = keras.Sequential([keras.Input(shape), layer])
    micro.set_weights(plain.get_weights() + micro.get_weights()[len(plain.weights) :])
    np.testing.assert_allclose(predict(micro), expected, atol=1e-6)


@pytest.mark.parametrize("case", PLAIN)
def test_masked_weights_have_no_gradient(case):
    model = mask_and_quantize(micro_model(case))
    layer = model.get_layer("only")
    raws = [getattr(layer, name) for name in layer.kernel_names]
    found = gradients(
        lambda: ops.sum(ops.square(model(inputs(model), training=True))), raws
    )
    for kernel, gradient in zip(kernels(model), found, strict=True):
        assert np.all(gradient[~kernel.mask] == 0)
        assert np.count_nonzero(gradient[kernel.mask]) > 0


@pytest.mark.parametrize("case", PLAIN)
@pytest.mark.slow
def test_training_keeps_zeros(case):
    model = mask_and_quantize(micro_model(case))
    model.compile("adam", "mse")
    before = [kernel.weights for kernel in kernels(model)]
    x = inputs(model)
    model.fit(x, np.zeros_like(predict(model)), epochs=2, verbose=0)
    for kernel, old in zip(kernels(model), before, strict=True):
        assert np.all(kernel.weights[~kernel.mask] == 0)
        assert np.any(kernel.weights != old)


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.parametrize("case", [case for case in CASES if case not in NOT_ON_DEVICES])
def test_litert_agrees_with_the_simulation(case):
    check_device(case, mask_and_quantize(micro_model(case, "direct")))


@pytest.mark.tensorflow
@pytest.mark.parametrize("case", PLAIN)
def test_litert_agrees_with_a_prepared_layer(case):
    check_device(case, mask_and_quantize(micro_model(case, "prepared")))


def check_device(case, model):
    content = convert(model, quantization="int8")
    flatbuffer = read_flatbuffer(content)
    assert not flatbuffer.float_operations
    assert "QUANTIZE" not in flatbuffer.operations
    assert "DEQUANTIZE" not in flatbuffer.operations
    member = Member(content)
    x = inputs(model, n=256)
    raw = member.predict_raw(x)
    expected = quantize(predict(model, x), "int8", *member.output_quantization)
    np.testing.assert_array_equal(raw, expected)
    assert np.ptp(raw.astype(int)) > 50  # the outputs are not all alike
    kernels_in_file = by_size(flatbuffer.int8_weights)
    for kernel, stored in zip(by_size(kernels(model)), kernels_in_file, strict=True):
        stored = in_keras_layout(case, stored, kernel.mask.shape)
        assert np.all(stored[~kernel.mask] == 0)
        np.testing.assert_array_equal(stored, integers(case, kernel))


def by_size(things):
    """Sort kernels of a model or a file by size, which differs for each."""
    values = things.values() if isinstance(things, dict) else things
    return sorted(values, key=lambda thing: thing.size)


def in_keras_layout(case, stored, shape):
    kind = case.split("-")[0]
    if kind in ("dense", "einsum"):  # (outputs, inputs)
        return stored.T.reshape(shape)
    if kind.startswith("transpose"):  # (outputs, height, width, inputs)
        return stored.transpose(1, 2, 0, 3).reshape(shape)
    if stored.shape[0] == 1:  # depthwise: (1, height, width, channels * multiplier)
        return stored.reshape(shape)
    return stored.transpose(1, 2, 3, 0).reshape(shape)


def integers(case, kernel):
    """Compute with NumPy the integers that the file should hold."""
    weights = kernel.weights.astype("float32")
    if kernel.name == "depthwise_kernel" or case.startswith("depthwise"):
        weights = weights.reshape(*weights.shape[:-2], 1, -1)
    magnitude = np.abs(weights)
    if case.startswith(("dense", "einsum", "transpose")):
        limit = magnitude.max()
    else:
        limit = magnitude.max(axis=(*range(weights.ndim - 1),))
    limit = np.maximum(limit, np.float32(SMALLEST_KERNEL_RANGE))
    return np.rint(weights / (limit / np.float32(127))).reshape(kernel.mask.shape)


@pytest.mark.tensorflow
@pytest.mark.parametrize("case", PLAIN)
@pytest.mark.parametrize("removed", ["a channel", "everything"])
@pytest.mark.slow
def test_empty_kernels_convert(case, removed):
    model = mask_and_quantize(micro_model(case))
    for kernel in kernels(model):
        mask = np.ones(kernel.mask.shape, bool)
        mask[... if removed == "everything" else (..., 0)] = False
        kernel.set_mask(mask)
    member = Member(convert(model, quantization="int8"))
    x = inputs(model)
    with constant_quantizers(model):
        expected = predict(model, x)
    assert np.isfinite(expected).all()
    expected = quantize(expected, "int8", *member.output_quantization)
    assert np.abs(member.predict_raw(x).astype(int) - expected).max() <= 1
