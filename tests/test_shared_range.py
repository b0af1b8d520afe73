"""Inputs of a concatenation share a range: in training, in copies and in the file."""

import keras
import numpy as np
import pytest
from backends import gradients
from exact_cases import assert_equals_its_file, conv, images, learned
from keras import layers, ops
from tiny_keras import compiled, data

from keras_micronets.layers import (
    ActivationQuantizer,
    QuantizationScheme,
    clone,
    constant_quantizers,
    prepare,
    set_quantizers,
)
from keras_micronets.layers.placement import place_quantizers
from keras_micronets.layers.quantization import freeze, quantizers
from keras_micronets.layers.quantizers.observers import LearnedStepSize
from keras_micronets.layers.quantizers.shared_range import share_range


def rectified(x, filters=4, **kwargs):
    return layers.ReLU()(conv(x, filters, **kwargs))


def joined(*tensors):
    return layers.Concatenate()(list(tensors))


def largest(*tensors):
    return layers.Maximum()(list(tensors))


def dense_block(x, n=2):
    for _ in range(n):
        y = layers.ReLU()(layers.BatchNormalization()(x))
        x = joined(x, conv(y, 4))
    return x


def pooled(x):
    x = conv(x)
    branches = layers.AveragePooling2D(2)(x), layers.MaxPooling2D(2)(x)
    return conv(joined(*branches, conv(x, 4, strides=2)))


def two_blocks(x):
    x = dense_block(conv(x))
    return conv(dense_block(layers.AveragePooling2D(2)(conv(x))))


def read_later(x):
    """The model's input is read again after the concatenation."""
    y = joined(layers.ZeroPadding2D(1)(x), layers.ZeroPadding2D(1)(rectified(x)))
    return layers.Add()([conv(y, 3), layers.ZeroPadding2D(1)(x)])


def in_turn(x):
    """Three tensors have one range because the second is joined with each other."""
    x, y, z = conv(x), rectified(x), conv(x, 5)
    return layers.Add()([conv(joined(x, y)), conv(joined(y, z))])


def capped(x):
    total = layers.Add()([conv(x, 6, 5), conv(x)])
    return conv(joined(conv(x), layers.ReLU(6.0)(total), layers.ReLU()(total)))


def rectified_apart(x):
    """A rectifier that is not fused has many times the range of its input."""
    y = conv(x)
    return layers.Add()([y, conv(joined(layers.ReLU()(y), layers.Rescaling(9.0)(x)))])


def rectified_twice(x):
    """The converter makes one of both rectifiers, though only one is joined."""
    y = conv(x)
    z = conv(joined(layers.ReLU()(y), conv(x, 4, 5)))
    return layers.Add()([z, conv(layers.Activation("relu")(y))])


def beside_an_inner_model(x):
    inputs = keras.Input((8, 8, 6))
    inner = keras.Model(inputs, rectified(inputs))
    return conv(joined(inner(conv(x)), layers.MaxPooling2D(1)(conv(x))))


def within_an_inner_model(x):
    inputs = keras.Input((8, 8, 6))
    inner = keras.Model(inputs, conv(dense_block(conv(inputs))))
    return conv(inner(conv(x)))


def sigmoids(x):
    return conv(joined(*(conv(x, activation="sigmoid") for _ in range(2))))


JOINED = {
    "convolutions": lambda x: conv(joined(conv(x), rectified(x))),
    "at the output": lambda x: joined(conv(x), rectified(x)),
    "dense block": lambda x: conv(dense_block(conv(x))),
    "two blocks": two_blocks,
    "pooled": pooled,
    "with the input": lambda x: conv(joined(x, conv(x))),
    "input read later": read_later,
    "one tensor twice": lambda x: conv(joined(y := conv(x), y)),
    "in turn": in_turn,
    "capped": capped,
    "rectified apart": rectified_apart,
    "rectified twice": rectified_twice,
    "beside an inner model": beside_an_inner_model,
    "within an inner model": within_an_inner_model,
    "sigmoids": sigmoids,
    "largest": lambda x: conv(largest(conv(x), rectified(x, 6), conv(x))),
    "largest at the output": lambda x: largest(conv(x), conv(x)),
    "smallest": lambda x: conv(layers.Minimum()([conv(x), conv(x)])),
    "largest of smallest": lambda x: joined(
        largest(layers.Minimum()([conv(x), conv(x)]), conv(x)), conv(x)
    ),
    "largest of the input": lambda x: conv(
        largest(conv(x, 3), layers.ZeroPadding2D(0)(x))
    ),
    "input of an inner model": lambda x: keras.Model(
        inputs := keras.Input((8, 8, 6)), conv(joined(inputs, conv(inputs)))
    )(conv(x)),
}
# Tensors with a fixed range are rescaled before they are joined.
RESCALED = {
    "tanh": lambda x: conv(joined(conv(x), conv(x, activation="tanh"))),
    "sigmoid and tanh": lambda x: conv(
        joined(conv(x, activation="sigmoid"), conv(x, activation="tanh"))
    ),
    "largest of three": lambda x: largest(conv(x, activation="tanh"), conv(x), conv(x)),
    "smallest of three": lambda x: layers.Minimum()(
        [conv(x), conv(x, activation="sigmoid"), conv(x)]
    ),
}
COPIES = (
    *("two blocks", "input read later", "in turn", "rectified twice"),
    *("beside an inner model", "tanh"),
)


def ranges(model):
    """Return the range of each quantiser of activations."""
    return [
        tuple(map(float, one.bounds()))
        for one in quantizers(model)
        if isinstance(one, ActivationQuantizer)
    ]


def numbers_sharing(model):
    """Return how many quantisers share the range of each one."""
    return [
        len(one.shared_range.members) for one in quantizers(model) if shared_range(one)
    ]


def shared_range(quantizer):
    return getattr(quantizer, "shared_range", None)


def predictions(model):
    return ops.convert_to_numpy(model(images(8, seed=3), training=False))


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.parametrize("kind", JOINED)
def test_the_file_rescales_nothing_and_computes_the_same(kind, tmp_path):
    report = assert_equals_its_file(learned(JOINED[kind]), tmp_path)
    assert "QUANTIZE" not in report.operations


@pytest.mark.tensorflow
@pytest.mark.parametrize("kind", RESCALED)
def test_a_fixed_range_is_rescaled_once(kind, tmp_path):
    report = assert_equals_its_file(learned(RESCALED[kind]), tmp_path)
    assert report.operations["QUANTIZE"] == 1


@pytest.mark.parametrize("kind", ["dense block", "pooled", "input read later"])
def test_members_round_within_the_union_of_their_own_ranges(kind):
    model = learned(JOINED[kind])
    found = next(shared_range(one) for one in quantizers(model) if shared_range(one))
    own = [tuple(map(float, one.own_bounds())) for one in found.members]
    lower, upper = zip(*own, strict=True)
    assert len(set(own)) > 1
    for member in found.members:
        bounds = tuple(map(float, member.bounds()))
        assert bounds == pytest.approx((min(lower), max(upper)))


def test_no_range_is_shared_without_a_concatenation():
    model = learned(lambda x: layers.Add()([conv(x), rectified(x, 6)]))
    assert not numbers_sharing(model)


@pytest.mark.parametrize("kind", COPIES)
def test_a_loaded_model_is_the_same(kind, tmp_path):
    model = learned({**JOINED, **RESCALED}[kind])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert numbers_sharing(loaded) == numbers_sharing(model)
    assert ranges(loaded) == ranges(model)
    np.testing.assert_array_equal(predictions(loaded), predictions(model))


@pytest.mark.parametrize("kind", COPIES)
def test_a_clone_is_the_same_and_independent(kind):
    model = learned({**JOINED, **RESCALED}[kind])
    copy = clone(model)
    assert numbers_sharing(copy) == numbers_sharing(model)
    np.testing.assert_array_equal(predictions(copy), predictions(model))
    before = ranges(model)
    copy(100 * images(8), training=True)
    assert ranges(copy) != before
    assert ranges(model) == before


def branched(seed=0):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8,))
    x = layers.Dense(8, activation="relu", name="first")(inputs)
    y = layers.Dense(6, name="second")(x)
    x = layers.Concatenate(name="joined")([x, y, inputs])
    return keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x))


def test_training_goes_on_where_it_was_saved(tmp_path):
    model = compiled(branched())
    prepare(model, quantize=True)
    set_quantizers(model, True)
    train(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    before = ranges(loaded)
    for one in (model, loaded):
        train(one)
    assert numbers_sharing(loaded) == [4, 4, 4, 4]
    assert before != ranges(loaded) == ranges(model)
    for one, other in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def train(model):
    x, y = data()
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0)


def test_training_rounds_on_the_grid_of_inference():
    """Once the ranges rest, what training computes is what inference does."""
    model = learned(JOINED["pooled"])
    freeze(model, observers=True)
    in_training = ops.convert_to_numpy(model(images(8, seed=3), training=True))
    difference = np.abs(in_training - predictions(model))
    assert np.mean(difference > 1e-5) < 0.05


def pair(*ranges):
    found = [ActivationQuantizer() for _ in ranges]
    for quantizer, bounds in zip(found, ranges, strict=True):
        quantizer.build()
        quantizer.active.assign(True)
        quantizer.lower.assign(bounds[0])
        quantizer.upper.assign(bounds[1])
    share_range(found)
    return found


def test_a_batch_moves_its_own_range_only_and_rounds_within_all():
    first, second = pair((-1.0, 1.0), (0.0, 51.0))
    rounded = first(np.array([[-2.0, 0.07, 60.0]], "float32"), training=True)
    lower, upper = map(float, first.own_bounds())
    assert lower == pytest.approx(-1.01, abs=1e-3)
    assert upper == pytest.approx(1.59, abs=1e-3)
    assert tuple(map(float, second.own_bounds())) == (0.0, 51.0)
    step = (51 + 1.01) / 255
    expected = [[np.round(-1.01 / step) * step, 0.0, 51.0]]
    np.testing.assert_allclose(ops.convert_to_numpy(rounded), expected, atol=step / 2)


@pytest.mark.parametrize("training", [False, True])
def test_a_rectified_tensor_has_no_negative_values_in_a_range_that_has(training):
    first, _ = pair((0.0, 1.0), (-1.0, 1.0))
    x = np.linspace(-1, 1, 9, dtype="float32")[None]
    rounded = ops.convert_to_numpy(first(x, training=training, rectify=True))
    np.testing.assert_allclose(rounded, np.maximum(x, 0), atol=0.01)
    assert rounded.min() == 0


def test_gradients_pass_within_the_range_of_all():
    first, _ = pair((-1.0, 1.0), (0.0, 50.0))
    x = keras.Variable(np.array([[-3.0, -0.5, 0.5, 40.0, 90.0]], "float32"))

    def loss():
        return ops.sum(first(x, training=False))

    np.testing.assert_array_equal(gradients(loss, [x])[0], [[0, 1, 1, 1, 0]])


def test_a_frozen_range_is_that_of_all():
    model = learned(JOINED["dense block"])
    before = ranges(model)
    with constant_quantizers(model):
        assert ranges(model) == before


def test_a_part_of_a_model_keeps_the_ranges_of_the_whole():
    model = learned(JOINED["convolutions"])
    layer = next(one for one in model.layers if hasattr(one, "output_quantizer"))
    expected = tuple(map(float, layer.output_quantizer.bounds()))
    part = keras.Model(model.inputs, layer.output)
    del model
    part.predict(images(2), verbose=0)
    assert tuple(map(float, layer.output_quantizer.bounds())) == expected


def test_learned_steps_leave_a_concatenation_a_range_of_its_own():
    model = branched()
    prepare(model, quantize=QuantizationScheme(LearnedStepSize()))
    set_quantizers(model, True)
    model(data()[0], training=True)
    assert model.get_layer("joined").quantizers.names == ("input_2", "output")
    assert not numbers_sharing(model)


def test_placement_of_concatenations():
    """Only inputs with a fixed range are quantised again before they are joined."""
    for kind, expected in (("dense block", ()), ("tanh", ("input_1",))):
        inputs = keras.Input((8, 8, 3))
        model = keras.Model(inputs, {**JOINED, **RESCALED}[kind](inputs))
        placed = place_quantizers(model).quantizers
        names = [
            v.names for k, v in placed.items() if isinstance(k, layers.Concatenate)
        ]
        assert set(names) == {expected}
