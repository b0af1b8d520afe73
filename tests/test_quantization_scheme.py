import keras
import model_cases
import numpy as np
import pytest
from exact_cases import assert_equals_its_file, conv, learned

from keras_micronets import layers
from keras_micronets.export.conversion import convert
from keras_micronets.layers import (
    ActivationQuantizer,
    QuantizationScheme,
    QuantizerSpec,
)
from keras_micronets.layers.quantization import quantizers
from keras_micronets.layers.quantizers.observers import MovingAverage, Percentile
from keras_micronets.layers.quantizers.scheme import as_quantizer_spec

SCHEME = QuantizationScheme(Percentile(99.0), kernel_bits=4, activation_bits=6)


def quantised(kind, scheme=SCHEME):
    model = model_cases.MODELS[kind]()
    layers.prepare(model, quantize=scheme)
    layers.set_quantizers(model, True)
    model(model_cases.images(), training=True)
    return model


def schemes(model):
    """Return the arguments of the quantisers of a model."""
    return {
        (q.bits, q.observer) if isinstance(q, ActivationQuantizer) else q.bits
        for q in quantizers(model)
    }


def test_quantisers_follow_the_scheme():
    assert schemes(quantised("residual")) == {4, (6, Percentile(99.0))}
    plain = quantised("residual", True)
    assert schemes(plain) == {8, (8, MovingAverage(0.99))}


@pytest.mark.tensorflow
@pytest.mark.parametrize("bits", [2, 6])
def test_files_have_8_bits_of_activations(bits, tmp_path):
    def build(x):
        x = keras.layers.Activation("silu")(conv(x)) * 2 + 1
        x = keras.layers.Reshape((64, 6))(x)
        return keras.layers.Softmax()(keras.layers.MultiHeadAttention(2, 3)(x, x))

    model = learned(build, scheme=QuantizationScheme(activation_bits=bits))
    content = convert(model, quantization="int8")
    for quantizer in quantizers(model):
        if isinstance(quantizer, ActivationQuantizer):
            assert quantizer.bits == bits
            quantizer.bits = 8
    assert convert(model, quantization="int8") == content
    assert_equals_its_file(model, tmp_path)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_kernels_have_as_many_values_as_their_bits_allow(bits):
    model = quantised("residual", QuantizationScheme(kernel_bits=bits))
    kernel = model.get_layer("conv2").effective_kernel()
    for channel in np.moveaxis(keras.ops.convert_to_numpy(kernel), -1, 0):
        largest = 7 if bits <= 4 else 127  # of the integers that files have
        steps = channel / (np.abs(channel).max() / largest)
        np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)
        assert len(np.unique(np.rint(steps))) <= 2**bits - 1


@pytest.mark.parametrize("kind", ["residual", "nested"])
def test_it_is_saved_with_the_model(kind, tmp_path):
    model = quantised(kind)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert schemes(loaded) == schemes(model)
    np.testing.assert_allclose(
        model_cases.outputs(loaded), model_cases.outputs(model), atol=1e-6
    )


@pytest.mark.parametrize("kind", ["residual", "subclassed"])
def test_clones_have_the_scheme_and_stripped_copies_do_not(kind):
    model = quantised(kind)
    copy = layers.clone(model)
    assert schemes(copy) == schemes(model)
    np.testing.assert_allclose(
        model_cases.outputs(copy), model_cases.outputs(model), atol=1e-6
    )
    assert schemes(layers.strip(model)) == set()


def test_a_scheme_can_be_chosen_after_pruning():
    model = model_cases.residual()
    layers.prepare(model)
    layers.prepare(model, quantize=SCHEME)
    assert schemes(model) == {4, (6, Percentile(99.0))}


def test_quantisers_keep_their_scheme_and_another_is_rejected():
    model = quantised("residual")
    layers.prepare(model, quantize=True)
    layers.prepare(model, quantize=SCHEME)
    assert schemes(model) == {4, (6, Percentile(99.0))}
    with pytest.raises(ValueError, match="kernel_bits=8"):
        layers.prepare(model, quantize=QuantizationScheme())


@pytest.mark.parametrize(
    ("arguments", "received"),
    [
        ({"kernel_bits": 1}, "kernel_bits=1"),
        ({"kernel_bits": 9}, "kernel_bits=9"),
        ({"activation_bits": 7.5}, "activation_bits=7.5"),
        ({"observer": 0.99}, "observer=0.99"),
    ],
)
def test_arguments_out_of_range_are_rejected(arguments, received):
    with pytest.raises(ValueError, match=f"Received: {received}"):
        QuantizationScheme(**arguments)


def test_round_trip():
    config = keras.saving.serialize_keras_object(SCHEME)
    assert keras.saving.deserialize_keras_object(config) == SCHEME


def test_a_specification_is_read_from_the_names_of_earlier_versions():
    names = ["output", "kernel", "channels", "input_2", "depthwise", "input_0"]
    spec = as_quantizer_spec(names)
    assert spec == QuantizerSpec(True, True, (0, 2), output=True)
    assert spec.names == ("kernel", "input_0", "input_2", "output")
    assert as_quantizer_spec(keras.saving.serialize_keras_object(spec)) == spec
    assert not as_quantizer_spec(None)


def test_a_union_of_specifications_has_the_tensors_of_both():
    first, second = QuantizerSpec(kernel=True, inputs=(1,)), QuantizerSpec(inputs=(0,))
    assert first | second == QuantizerSpec(kernel=True, inputs=(0, 1))
    assert first | first == first
