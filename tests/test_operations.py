"""Arithmetic outside any layer is computed as in the file; float is announced."""

import keras
import numpy as np
import pytest
from exact_cases import assert_equals_its_file, conv, images, learned, two_ranges
from keras import layers, ops

from keras_micronets import strip
from keras_micronets.export import export_tflite
from keras_micronets.layers import prepare, set_quantizers
from keras_micronets.layers.clone import clone
from keras_micronets.layers.litert.capabilities import plain_class
from keras_micronets.layers.placement import place_quantizers

WEIGHTS = np.array([0.1, -0.2, 0.3, 0.4, 0, 1], "float32")


def rectified(*tensors):
    return [layers.ReLU()(x) for x in tensors]


def hard_sigmoid(x):
    return layers.ReLU(6.0)(x + 3.0) * (1 / 6)


def excited(x):
    means = layers.GlobalAveragePooling2D(keepdims=True)(x)
    return layers.Multiply()([x, hard_sigmoid(conv(means, size=1))])


def sums(x):
    x = conv(x)
    return rectified(x + 0.3, 0.3 + x, x - 0.3, 0.3 - x, x + (-0.1), x + 2, x + x)


def products(x):
    x = conv(x)
    return rectified(x * 0.3, 0.3 * x, x / 3, x * (-0.7), 1.5 * x)


def of_two(x):
    a, b = two_ranges(x)
    means = layers.GlobalAveragePooling2D(keepdims=True)(a)
    return rectified(a + b, a - b, a * b, means * b, b + means)


def arrays(x):
    x = conv(x)
    return rectified(x + WEIGHTS, x * WEIGHTS, x / (1 + WEIGHTS), x - WEIGHTS)


def read_by_others(x):
    x, y = conv(x) * 0.3, conv(x) + 1.0
    readers = layers.MaxPooling2D(), layers.GlobalAveragePooling2D(), conv
    return [read(y) for read in readers] + [layers.LeakyReLU(0.2)(x), conv(x)]


def read_twice(x):
    x = conv(x) + 0.3
    return [layers.ReLU()(x), conv(x)]


def nested(x):
    inputs = keras.Input((8, 8, 6))
    inner = keras.Model(inputs, conv(layers.ReLU()(inputs * 0.3)))
    return layers.ReLU()(inner(conv(x)) + 0.2)


def sliced(x):
    """Compute with half of the channels, as in CSP and ShuffleNet."""
    y = conv(x, activation="relu")
    y = layers.Concatenate()([conv(y[..., :3], 3), y[..., 3:]])
    a, b, c = ops.split(y, [2, 4], axis=-1)
    return layers.Add()([conv(a), conv(b), conv(layers.Concatenate()([c, a]))])


def moved(x):
    """Move integers in every way that has a row."""
    y = conv(x)
    return [
        y[:, ::2, 1:-1],
        conv(ops.reshape(y, (-1, 4, 16, 6))),
        conv(ops.transpose(y, (0, 2, 1, 3))),
        conv(ops.swapaxes(ops.moveaxis(y, 1, 2), 1, 2)),
        layers.ReLU()(ops.squeeze(ops.expand_dims(y, 1), 1)),
        layers.Dense(3)(ops.reshape(y[:, 0], (-1, 48))),
        layers.ReLU()(y[..., :3] + y[..., 3:]),
        conv(x[..., :2]),
        conv((y * 2.0)[..., 1:]),
    ]


def excited_slice(x):
    means = layers.GlobalAveragePooling2D()(y := conv(x))
    return layers.Multiply()([y, means[:, None, None]])


def merged(x):
    three = [conv(x) for _ in range(3)]
    four = [conv(x, activation="relu") for _ in range(4)]
    return [
        layers.Add()(three),
        layers.Multiply()(three),
        layers.ReLU()(layers.Add()(four)),
        layers.Dense(3)(layers.Flatten()(layers.Multiply()(four))),
        layers.Add()([x, x, conv(x, 3)]),
    ]


MODELS = {
    "sliced": sliced,
    "moved": moved,
    "excited slice": excited_slice,
    "merged": merged,
    "hard sigmoid": lambda x: conv(layers.Multiply()([hard_sigmoid(y := conv(x)), y])),
    "excited": lambda x: conv(excited(conv(x))),
    "sums": sums,
    "products": products,
    "of two": of_two,
    "arrays": arrays,
    "read by others": read_by_others,
    "read twice": read_twice,
    "nested": nested,
}


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.parametrize("kind", MODELS)
def test_predictions_are_those_of_the_file(kind, tmp_path):
    model = learned(MODELS[kind])
    assert_equals_its_file(model, tmp_path)
    assert place_quantizers(model).floating == ()


@pytest.mark.tensorflow
def test_a_rectifier_after_arithmetic_costs_no_operation(tmp_path):
    model = learned(lambda x: layers.ReLU()(conv(x) + 0.3))
    report = export_tflite(model, tmp_path / "model.tflite")
    assert report.operations == {"CONV_2D": 1, "ADD": 1}


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "rectify",
    [lambda x: layers.ReLU(6.0)(x), lambda x: layers.Activation("relu6")(x)],
    ids=["layer", "activation"],
)
def test_a_range_beyond_a_rectifier(rectify, tmp_path):
    """What is learned may be wider than what a rectifier lets through."""
    model = learned(lambda x: rectify(conv(x) + 3.0))
    quantizer = model.layers[-1].output_quantizer
    quantizer.lower.assign(-0.4)
    quantizer.upper.assign(7.3)
    assert_equals_its_file(model, tmp_path)


def positive(x):
    return layers.Activation("sigmoid")(conv(x))


def each_of(*operations):
    """Apply operations to rounded tensors; a rectifier reads every other result."""

    def build(x):
        results = [operation(conv(x)) for operation in operations]
        rest = rectified(*(operation(conv(x)) for operation in operations[::2]))
        return results + rest

    return build


def matrix_product(x):
    rows = ops.reshape(x, (-1, 64, 6))
    return ops.matmul(rows, ops.transpose(ops.reshape(conv(x), (-1, 64, 6)), (0, 2, 1)))


OPERATIONS = {
    "activations": each_of(
        *(ops.sigmoid, ops.tanh, ops.softmax, lambda x: ops.softmax(x, axis=1)),
        *(ops.relu, ops.relu6, ops.hard_silu, ops.hard_tanh, ops.leaky_relu),
        *(ops.exp, ops.gelu, lambda x: ops.leaky_relu(x, negative_slope=0.4)),
    ),
    "silu": lambda x: ops.silu(conv(x)),
    "powers": each_of(ops.negative, ops.square, lambda x: x**2, lambda x: x * x, abs),
    "chains": each_of(
        lambda x: x * 2 + 1,
        lambda x: (x - 0.5) * 0.25,
        lambda x: 1 - ops.sigmoid(x),
        lambda x: x * ops.sigmoid(x),
        lambda x: ops.relu(x + 3) / 6,
        lambda x: x + 0.1 * conv(x),
        lambda x: ops.log(ops.sigmoid(x) + 1),
    ),
    "choices": each_of(
        lambda x: ops.where(x > 0, x, 0.1 * x),
        lambda x: ops.where(x >= 0.3, x, 0.0),
        lambda x: ops.where(ops.logical_and(x > -1, x < 1), x, conv(x)),
        lambda x: ops.maximum(x, 0.1 * x),
        lambda x: ops.minimum(x, conv(x)),
        lambda x: ops.maximum(x, 0.2),
        lambda x: ops.maximum(x, np.arange(-1, 5, dtype="float32")),
        lambda x: ops.clip(x, -1, 1),
        lambda x: ops.clip(x, 0.25, 2.0),
    ),
    "joined": each_of(
        lambda x: ops.concatenate([x, conv(x)], axis=1),
        lambda x: ops.stack([x, conv(x)], axis=-1),
    ),
    "moved": each_of(
        lambda x: ops.pad(x, [[0, 0], [1, 1], [2, 0], [0, 0]]),
        lambda x: ops.repeat(x, 2, axis=1),
        lambda x: ops.tile(x, [1, 2, 1, 1]),
        lambda x: ops.flip(x, axis=1),
        lambda x: ops.roll(x, 1, axis=1),
        lambda x: ops.take(x, [0, 2], axis=-1),
        lambda x: ops.max(x, axis=(1, 2)),
        lambda x: ops.min(x, axis=-1, keepdims=True),
        lambda x: ops.max_pool(x, 2, 2),
    ),
    "averages": each_of(
        lambda x: ops.mean(x, axis=(1, 2)),
        lambda x: ops.mean(x, axis=-1, keepdims=True),
        lambda x: ops.sum(x, axis=1),
        lambda x: ops.average_pool(x, 2, 2),
        lambda x: layers.Average()([x, conv(x), conv(x)]),
    ),
    "matrices": each_of(
        matrix_product, lambda x: ops.einsum("bijc,bijd->bcd", x, conv(x))
    ),
    "of the input": lambda x: conv(x * 2.0 + 1.0),
    "read by another": lambda x: [conv(y := conv(x) + 3.0), conv(y * 2.0)],
}


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.parametrize("kind", OPERATIONS)
def test_operations_are_computed_in_the_integers_of_the_file(kind, tmp_path):
    model = learned(OPERATIONS[kind])
    assert place_quantizers(model).floating == ()
    assert_equals_its_file(model, tmp_path)


@pytest.mark.slow
@pytest.mark.tensorflow
def test_compiled_predictions_equal_others():
    """Compilers reorder products of constants, which would move halves."""
    model, x = learned(lambda x: ops.maximum(y := conv(x), 0.1 * y)), images(64, seed=2)
    quantizer = model.layers[1].output_quantizer
    for upper in np.random.default_rng(0).uniform(3, 9, 20):
        quantizer.upper.assign(upper)
        step = ops.convert_to_numpy(quantizer.scale())
        expected = ops.convert_to_numpy(model(x, training=False)) / step
        found = model.predict(x, verbose=0) / step
        np.testing.assert_array_equal(np.rint(found), np.rint(expected))


POOLED = {
    "averages": lambda x: layers.AveragePooling2D(2)(x),
    "largest": lambda x: layers.MaxPooling2D(2)(x),
    "averages of an operation": lambda x: ops.average_pool(x, 2, 2),
}


@pytest.mark.tensorflow
@pytest.mark.parametrize("pool", POOLED)
@pytest.mark.parametrize("limit", [None, 6.0])
def test_a_rectifier_after_pooling(pool, limit, tmp_path):
    """The converter would make it a part of the pooling, with another range."""
    model = learned(lambda x: layers.ReLU(limit)(POOLED[pool](conv(x))))
    assert_equals_its_file(model, tmp_path)


@pytest.mark.tensorflow
def test_a_rectifier_after_a_gate_costs_no_operation(tmp_path):
    """It is a part of the product, which LiteRT rounds once."""
    model = learned(
        lambda x: [
            layers.ReLU()(layers.Activation("silu")(conv(x))),
            ops.relu6(ops.silu(conv(x))),
            layers.ReLU()(layers.Activation("tanh_shrink")(conv(x))),
        ]
    )
    report = assert_equals_its_file(model, tmp_path)
    each = {"CONV_2D": 3, "LOGISTIC": 2, "MUL": 2, "TANH": 1, "SUB": 1}
    assert report.operations == each


@pytest.mark.tensorflow
def test_several_operations_read_a_tensor_that_was_moved(tmp_path):
    """The converter loses the scale of what only moves integers."""

    def build(x):
        x = layers.Cropping2D(1)(conv(x))
        leaky = ops.where(x > 0, x, 0.1 * x)
        head = layers.Dense(4)(layers.Flatten()(layers.MaxPooling2D()(x)))
        normalised = layers.BatchNormalization()(leaky), layers.BatchNormalization()(x)
        return [*normalised, head]

    assert_equals_its_file(learned(build), tmp_path)


FLOATS = {
    "no kernel": lambda x: conv(ops.sin(conv(x))),
    "a slice of it": lambda x: conv(ops.sin(conv(x))[..., :2]),
    "a cube": lambda x: conv(ops.power(conv(x), 3)),
    "Booleans": lambda x: ops.cast(conv(x) > 0, "float32") * 2.0,
}


@pytest.mark.slow
@pytest.mark.tensorflow
def test_parts_of_operations_in_float_are_not_rounded(tmp_path):
    """The converter has integers for the mean in a variance, and for quotients."""
    model = learned(
        lambda x: [
            conv(ops.var(conv(x), axis=-1, keepdims=True)),
            conv(conv(x) / (2 + conv(x, activation="sigmoid"))),
        ]
    )
    data = images(64, seed=2)
    report = export_tflite(model, tmp_path / "file.tflite", representative_data=data)
    assert [output.largest_difference for output in report.outputs] == [0, 0]
    assert len(place_quantizers(model).floating) == 2


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.parametrize("kind", FLOATS)
def test_what_stays_in_float_is_announced(kind, tmp_path):
    model = learned(FLOATS[kind])
    report = export_tflite(model, tmp_path / "model.tflite")
    float_operations = dict(report.float_operations)
    float_operations.pop("DEQUANTIZE", None)
    assert list(float_operations.values()) == [1]
    assert len(place_quantizers(model).floating) == 1
    assert [output.largest_difference for output in report.outputs] == [0]


def test_a_quotient_of_tensors_is_announced():
    """LiteRT has it in integers, with results that are far off."""
    model = learned(lambda x: conv(layers.Activation("tanh")(conv(x)) / conv(x)))
    (announced,) = place_quantizers(model).floating
    assert announced.startswith("true_divide (TrueDivide): ")


def kinds(model):
    return {type(operation).__module__ for operation in model.operations}


def copied(model, tmp_path):
    model.save(tmp_path / "model.keras")
    return keras.saving.load_model(tmp_path / "model.keras")


@pytest.mark.parametrize("copy", [copied, lambda model, _: clone(model)])
@pytest.mark.parametrize(
    "kind", ["hard sigmoid", "arrays", "nested", "sliced", "merged"]
)
@pytest.mark.slow
def test_copies_predict_the_same(kind, copy, tmp_path):
    model, x = learned(MODELS[kind]), images(16, seed=3)
    expected = keras.tree.flatten(model.predict(x, verbose=0))
    found = keras.tree.flatten(copy(model, tmp_path).predict(x, verbose=0))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_outputs_lie_on_the_grid():
    """On every backend what is predicted are integers of the last quantiser."""
    model = learned(lambda x: layers.ReLU()(conv(x) + 0.3))
    step = float(ops.convert_to_numpy(model.layers[-1].output_quantizer.scale()))
    integers = model.predict(images(8, seed=3), verbose=0) / step
    np.testing.assert_allclose(integers, np.rint(integers), atol=1e-3)


def test_a_stripped_model_has_plain_operations():
    model = learned(MODELS["hard sigmoid"])
    assert "keras_micronets.layers.micro.operations" in kinds(model)
    assert not any(name.startswith("keras_micronets") for name in kinds(strip(model)))
    names = [operation.name for operation in model.operations[1:]]
    assert [operation.name for operation in strip(model).operations[1:]] == names


@pytest.mark.parametrize("kind", ["hard sigmoid", *OPERATIONS])
def test_preparation_changes_no_prediction(kind):
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, (MODELS | OPERATIONS)[kind](inputs))
    before = [keras.tree.map_structure(ops.convert_to_numpy, model(images(4)))]
    prepare(model, quantize=True)
    after = [keras.tree.map_structure(ops.convert_to_numpy, model(images(4)))]
    for one, other in zip(*map(keras.tree.flatten, (before, after)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


def losses(*, plain):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, layers.ReLU()(conv(inputs) * 0.3 + conv(inputs)))
    prepare(model, quantize=True)
    set_quantizers(model, True)
    for operation in model.operations:
        if plain and not isinstance(operation, keras.Layer):
            operation.__class__ = plain_class(operation)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    history = model.fit(images(32), np.zeros((32, 8, 8, 6)), epochs=3, verbose=0)
    return history.history["loss"]


def test_training_is_not_affected():
    found = losses(plain=False)
    assert found[-1] < found[0]
    assert found == losses(plain=True)
