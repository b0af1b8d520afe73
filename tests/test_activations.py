import keras
import numpy as np
import pytest
from model_cases import images, outputs

from keras_micronets.layers import set_quantizers
from keras_micronets.layers.litert.capabilities import LAYERS, plain_class
from keras_micronets.layers.micro.activations import ACTIVATION_LAYERS
from keras_micronets.layers.micro.micro_layer import MICRO_LAYERS, is_micro_layer

ARGUMENTS = {
    "AlphaDropout": {"rate": 0.5},
    "Activation": {"activation": "relu"},
    "AveragePooling1D": {"pool_size": 2},
    "AveragePooling2D": {"pool_size": 2},
    "Cropping1D": {"cropping": 1},
    "Dropout": {"rate": 0.5},
    "GaussianDropout": {"rate": 0.5},
    "GaussianNoise": {"stddev": 0.5},
    "Permute": {"dims": (2, 1, 3)},
    "Rescaling": {"scale": 2.0, "offset": 1.0},
    "Reshape": {"target_shape": (-1,)},
    "SpatialDropout1D": {"rate": 0.5},
    "SpatialDropout2D": {"rate": 0.5},
}
SEVERAL = (
    *("Add", "Average", "Concatenate", "Maximum", "Minimum", "Multiply", "Subtract"),
)
every_class = pytest.mark.parametrize(
    "base", ACTIVATION_LAYERS, ids=lambda base: base.__name__
)


def make(cls, base, **kwargs):
    return cls(**ARGUMENTS.get(base.__name__, {}), **kwargs, name="only")


def data(base):
    x = images(8, shape=(6, 4) if base.__name__.endswith("1D") else (6, 6, 4))
    return [x, -2 * x] if base.__name__ in SEVERAL else x


def model_of(layer, x):
    inputs = keras.tree.map_structure(lambda a: keras.Input(a.shape[1:]), x)
    return keras.Model(inputs, layer(inputs))


@every_class
def test_inactive_micro_layer_is_the_plain_layer(base):
    x = data(base)
    plain = model_of(make(base, base), x)
    names = ("input_0", "output")
    micro = model_of(make(ACTIVATION_LAYERS[base], base, quantizers=names), x)
    np.testing.assert_array_equal(outputs(micro, x), outputs(plain, x))
    layer = micro.get_layer("only")
    assert is_micro_layer(layer)
    assert plain_class(layer) is base
    assert set(layer.nested_states()) == {"input_0_quantizer", "output_quantizer"}


@every_class
def test_saves_and_loads(base, tmp_path):
    x = data(base)
    names = ("input_0", "output")
    model = model_of(make(ACTIVATION_LAYERS[base], base, quantizers=names), x)
    set_quantizers(model, True)
    model(x, training=True)
    model.save(tmp_path / "micro.keras")
    loaded = keras.saving.load_model(tmp_path / "micro.keras")
    assert type(loaded.get_layer("only")) is ACTIVATION_LAYERS[base]
    assert loaded.get_layer("only").get_config() == model.get_layer("only").get_config()
    np.testing.assert_array_equal(outputs(loaded, x), outputs(model, x))


def test_each_input_has_its_own_quantiser():
    layer = ACTIVATION_LAYERS[keras.layers.Add](quantizers=("input_0", "input_1"))
    x = [images(4), 3 * images(4)]
    model = model_of(layer, x)
    set_quantizers(model, True)
    model(x, training=True)
    first, second = layer.input_0_quantizer, layer.input_1_quantizer
    assert float(second.upper) == pytest.approx(3 * float(first.upper))


@pytest.mark.parametrize(
    ("cls", "arguments", "expected"),
    [
        (keras.layers.Softmax, {}, (0.0, 255 / 256)),
        (keras.layers.Activation, {"activation": "sigmoid"}, (0.0, 255 / 256)),
        (keras.layers.Activation, {"activation": "tanh"}, (-1.0, 127 / 128)),
        (keras.layers.Activation, {"activation": "relu"}, None),
        (keras.layers.ReLU, {}, None),
    ],
)
def test_ranges_that_litert_fixes(cls, arguments, expected):
    layer = MICRO_LAYERS[cls](quantizers=("output", "input_0"), **arguments)
    layer(images(2))
    assert layer.output_quantizer.fixed_range == expected
    assert layer.input_0_quantizer.fixed_range is None


def test_every_row_has_a_micro_layer():
    averaging = {
        *(keras.layers.LayerNormalization, keras.layers.RMSNormalization),
        keras.layers.GroupNormalization,
    }
    assert set(MICRO_LAYERS) == {*LAYERS, *averaging, keras.Operation}
