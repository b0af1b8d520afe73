import keras
import numpy as np
import pytest
from tiny_keras import compiled, dense_model

from keras_micronets import layers
from keras_micronets.learners.outputs import (
    architecture_hash,
    check_output_shape,
    infer_from_logits,
    predictions_of,
)

FROM_LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
NOT_FROM_LOGITS = keras.losses.CategoricalCrossentropy(from_logits=False)


def with_last_layer(layer):
    return keras.Sequential([keras.Input((8,)), keras.layers.Dense(3), layer])


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        # The compiled loss decides first,
        (compiled(dense_model(), loss=FROM_LOGITS), True),
        (compiled(dense_model(activation=None), loss=NOT_FROM_LOGITS), False),
        # then the last layer;
        (compiled(dense_model()), False),
        (compiled(dense_model(activation="sigmoid")), False),
        (dense_model(), False),
        (with_last_layer(keras.layers.Softmax()), False),
        (with_last_layer(keras.layers.Activation("softmax")), False),
        # otherwise it is unknown.
        (compiled(dense_model(activation=None)), None),
        (compiled(dense_model(activation="relu"), loss="mse"), None),
        (compiled(dense_model(activation=None), loss=lambda y, p: p), None),
        (dense_model(activation=None), None),
        (with_last_layer(keras.layers.Identity()), None),
    ],
)
@pytest.mark.parametrize("prepared", [False, True])
def test_logits_are_inferred(model, expected, prepared):
    if prepared:
        layers.prepare(model, quantize=True)
    assert infer_from_logits(model) is expected


def test_probabilities_of_logits():
    logits = np.array([[1000.0, 0.0], [0.0, np.log(3)]])
    options = {"task": "multiclass", "quantized": False}
    probabilities = predictions_of(logits, True, **options)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, [[1, 0], [0.25, 0.75]], atol=1e-6)
    for declared in (False, None):
        np.testing.assert_array_equal(
            predictions_of(logits, declared, **options), logits.astype("float32")
        )


def test_shapes_that_suit_a_task():
    assert check_output_shape((None, 7), "net", "multiclass") == (7,)
    assert check_output_shape((None, 1), "net", "binary") == (1,)
    assert check_output_shape((None, 4, 7), "net", "reconstruction") == (4, 7)
    for shape in ((None, 4, 7), (None, None), [(None, 7)], {"a": (None, 7)}, (7,)):
        with pytest.raises(ValueError, match="'net' with output shape"):
            check_output_shape(shape, "net", "multiclass")
    with pytest.raises(ValueError, match="a binary classifier"):
        check_output_shape((None, 2), "net", "binary")
    with pytest.raises(ValueError, match="Expected a task out of"):
        check_output_shape((None, 2), "net", "ranking")


def test_models_of_one_architecture_share_a_hash():
    first = architecture_hash(dense_model(0))
    keras.layers.Dense(1)  # moves Keras's counters of names
    assert architecture_hash(dense_model(1)) == first
    assert architecture_hash(compiled(dense_model(2))) == first
    renamed = keras.Sequential(
        [
            keras.Input((8,), name="x"),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.Dense(3, activation="softmax"),
        ],
        name="mine",
    )
    assert architecture_hash(renamed) == first


def test_other_architectures_have_another_hash():
    prepared = dense_model()
    layers.prepare(prepared)
    quantized = dense_model()
    layers.prepare(quantized, quantize=True)
    models = [
        dense_model(),
        dense_model(width=17),
        dense_model(activation=None),
        prepared,
        quantized,
        with_last_layer(keras.layers.Softmax()),
    ]
    assert len({architecture_hash(model) for model in models}) == len(models)


def crossed(swap):
    """Return a model of two branches of equal layers, joined in either order."""
    x = keras.Input((8,), name="x")
    a = keras.layers.Dense(4, activation="relu", name="a")(x)
    b = keras.layers.Dense(4, activation="tanh", name="b")(a)
    ends = (b, a) if swap else (a, b)
    return keras.Model(x, keras.layers.Subtract(name="join")(ends))


def test_the_connections_count():
    assert architecture_hash(crossed(False)) == architecture_hash(crossed(False))
    assert architecture_hash(crossed(False)) != architecture_hash(crossed(True))
