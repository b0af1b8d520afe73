import gc
import itertools
import weakref

import keras
import numpy as np
import pytest
from backends import BACKEND, gradients
from model_cases import MODELS, SHAPE, images, labels, residual

from keras_micronets import layers
from keras_micronets.layers import (
    batches,
    constant_quantizers,
    kernel_gradients,
    kernels,
    prepare,
    set_quantizers,
    strip,
)

LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
PLAIN = keras.losses.SparseCategoricalCrossentropy()
traced = pytest.mark.skipif(BACKEND == "torch", reason="PyTorch traces nothing")


def separable():
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.SeparableConv2D(4, 3, depth_multiplier=2, name="separable"),
            keras.layers.Conv2DTranspose(2, 2, name="transposed"),
            keras.layers.Reshape((25, 2)),
            keras.layers.Conv1D(3, 3, padding="causal", activation="relu", name="conv"),
            keras.layers.EinsumDense("btc,cd->btd", (None, 4), name="einsum"),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(3, name="head"),
        ]
    )


def loss_of(model):
    activation = getattr(model.layers[-1], "activation", None)
    return PLAIN if activation is keras.activations.softmax else LOGITS


def sparse(model, loss=None, *, sparsity=0.6, quantize=True, **kwargs):
    """Return a compiled, prepared and randomly masked model."""
    model.compile("sgd", loss or loss_of(model), jit_compile=False, **kwargs)
    prepare(model, quantize=quantize)
    rng = np.random.default_rng(1)
    for kernel in kernels(model):
        kernel.set_mask(rng.random(kernel.mask.shape) >= sparsity)
    return model


def plain_kernels(model, plain):
    """Return the kernels of a stripped copy."""
    names = [(kernel.layer.name, kernel.name) for kernel in kernels(model)]
    found = {}
    for layer in plain._flatten_layers():
        for variable in layer.trainable_variables:
            found.setdefault((layer.name, variable.name), variable)
    return [found[name] for name in names]


def independent(model, x, y, sample_weight=None):
    """Return the gradients of a plain model that has the masked kernels."""
    plain = strip(model)
    loss = loss_of(model)
    x = keras.ops.convert_to_tensor(x)
    return gradients(
        lambda: loss(y, plain(x, training=True), sample_weight=sample_weight),
        plain_kernels(model, plain),
    )


def assert_close(found, expected, **kwargs):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == np.float32
        np.testing.assert_allclose(
            one, other, **({"atol": 1e-5, "rtol": 1e-5} | kwargs)
        )


@pytest.mark.parametrize("name", [*MODELS, "separable"])
def test_it_is_the_dense_gradient_of_a_plain_model_with_the_masked_kernels(name):
    model = sparse((MODELS | {"separable": separable})[name]())
    found = kernel_gradients(model, images(), labels())
    assert_close(found, independent(model, images(), labels()))
    for kernel, gradient in zip(kernels(model), found, strict=True):
        assert gradient.shape == kernel.mask.shape
        assert np.abs(gradient[~kernel.mask]).max() > 0


def test_it_follows_the_weights_the_masks_and_the_batch():
    model = sparse(residual())
    kernel_gradients(model, images(), labels())
    for kernel in kernels(model):
        kernel.set_mask(~kernel.mask)
        kernel.variable.assign_add(0.1 * kernel.mask)
    x, y = images(7, seed=3), labels(7, seed=3)
    assert_close(kernel_gradients(model, x, y), independent(model, x, y))


def test_sample_weights_count():
    model = sparse(residual())
    weights = np.linspace(0, 2, 32).astype("float32")
    found = kernel_gradients(model, images(), labels(), weights)
    assert_close(found, independent(model, images(), labels(), weights))


def test_regularisers_of_the_raw_weights_are_excluded():
    inputs = keras.Input((4,))
    dense = keras.layers.Dense(
        3, name="head", kernel_regularizer=keras.regularizers.L2(10.0)
    )
    model = sparse(keras.Model(inputs, dense(inputs)))
    x = np.random.default_rng(0).normal(size=(8, 4))
    assert_close(
        kernel_gradients(model, x, labels(8)),
        independent(model, x.astype("float32"), labels(8)),
    )


def test_activity_regularisers_are_included():
    inputs = keras.Input((4,))
    dense = keras.layers.Dense(
        3, name="head", activity_regularizer=keras.regularizers.L2(1.0)
    )
    model = sparse(keras.Model(inputs, dense(inputs)))
    x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    found = kernel_gradients(model, x, labels(8))[0]
    data_loss = independent(model, x, labels(8))[0]
    kernel = kernels(model)[0]
    added = 2 * x.T @ (x @ np.where(kernel.mask, kernel.weights, 0))
    # Keras divides what layers add by the size of the batch.
    np.testing.assert_allclose(found - data_loss, added / 8, rtol=1e-4, atol=1e-5)


def test_gradients_pass_straight_through_fake_quantisers():
    """Compare with a plain model that has the quantised kernels."""
    model = sparse(residual())
    for layer in {kernel.layer for kernel in kernels(model)}:
        layer.kernel_quantizer.active.assign(True)
    plain = strip(model)
    for kernel, variable in zip(
        kernels(model), plain_kernels(model, plain), strict=True
    ):
        variable.assign(kernel.layer.effective_kernel(kernel.name))
    x = keras.ops.convert_to_tensor(images())
    expected = gradients(
        lambda: PLAIN(labels(), plain(x, training=True)), plain_kernels(model, plain)
    )
    assert_close(kernel_gradients(model, images(), labels()), expected)


def everything(model):
    lists = model.variables, model.optimizer.variables, model.metrics_variables
    return [[np.array(keras.ops.convert_to_numpy(v)) for v in each] for each in lists]


def two_outputs():
    inputs = keras.Input(SHAPE, name="image")
    x = keras.layers.Conv2D(4, 3, name="conv")(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Dropout(0.5)(keras.layers.Flatten()(x))
    first = keras.layers.Dense(3, name="first")(x)
    second = keras.layers.Dense(3, name="second")(x)
    return keras.Model({"image": inputs}, {"a": first, "b": second})


@pytest.mark.parametrize("fitted", [False, True])
def test_it_changes_no_state(fitted):
    losses = {"a": LOGITS, "b": LOGITS}
    model = sparse(two_outputs(), losses, metrics={"a": "accuracy"})
    set_quantizers(model, True)
    x, y = {"image": images()}, {"a": labels(), "b": labels(seed=1)}
    if fitted:
        model.fit(x, y, epochs=1, verbose=0)
    before = everything(model)
    first = kernel_gradients(model, x, y)
    again = kernel_gradients(model, x, y)
    for old, new in zip(before, everything(model), strict=True):
        assert not fitted or len(old) == len(new)
        for one, other in zip(old, new, strict=False):
            np.testing.assert_array_equal(one, other)
    for one, other in zip(first, again, strict=True):  # the same dropout too
        np.testing.assert_array_equal(one, other)
    assert all(kernel.layer.probe is None for kernel in kernels(model))
    model.fit(x, y, epochs=1, verbose=0)


def test_a_failed_call_changes_no_state():
    model = sparse(residual())
    with pytest.raises(Exception, match=r"shape|size|expected|Expected"):
        kernel_gradients(model, images(4), labels(5))
    assert all(kernel.layer.probe is None for kernel in kernels(model))
    assert_close(
        kernel_gradients(model, images(), labels()),
        independent(model, images(), labels()),
    )


class Counting(keras.Model):
    """Count how often Python runs the loss."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
        self.n_losses = getattr(self, "n_losses", 0) + 1
        return super().compute_loss(x, y, y_pred, sample_weight)


def counting():
    inputs = keras.Input((4,))
    return Counting(inputs, keras.layers.Dense(3, name="head")(inputs))


@traced
def test_it_is_compiled_once_per_model():
    model = sparse(counting(), LOGITS)
    x = np.random.default_rng(0).normal(size=(8, 4))
    kernel_gradients(model, x, labels(8))
    before = model.n_losses
    for _ in range(5):
        kernel_gradients(model, x, labels(8))
    assert model.n_losses == before


def test_another_loss_is_another_gradient():
    model = sparse(counting(), LOGITS)
    x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    first = kernel_gradients(model, x, labels(8))
    model.compile("sgd", lambda y, p: 3 * LOGITS(y, p), jit_compile=False)
    for one, other in zip(first, kernel_gradients(model, x, labels(8)), strict=True):
        np.testing.assert_allclose(3 * one, other, rtol=1e-4, atol=1e-6)


def test_constant_quantisers_are_read_at_each_call():
    model = sparse(residual())
    expected = kernel_gradients(model, images(), labels())
    set_quantizers(model, True)
    with constant_quantizers(model, keep=False):
        assert_close(kernel_gradients(model, images(), labels()), expected)
    quantised = kernel_gradients(model, images(), labels())
    assert any((a != b).any() for a, b in zip(expected, quantised, strict=True))


def test_no_model_is_kept_alive():
    model = sparse(residual())
    kernel_gradients(model, images(), labels())
    reference = weakref.ref(model)
    del model
    keras.utils.clear_session(free_memory=False)
    gc.collect()
    assert reference() is None


def test_half_precision_gives_full_unscaled_gradients():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = residual()
    finally:
        keras.config.set_dtype_policy("float32")
    model = sparse(model, quantize=False)
    found = kernel_gradients(model, images(), labels())
    full = residual()
    for target, source in zip(full.variables, strip(model).variables, strict=True):
        target.assign(source)
    full.compile("sgd", PLAIN, jit_compile=False)
    prepare(full)
    expected = kernel_gradients(full, images(), labels())
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, other, atol=0.06 * np.abs(other).max())


def test_half_precision_that_overflows_is_scaled_down():
    """Scale down a gradient that is infinite in float16 at the first scale."""
    inputs = keras.Input((4,), dtype="float16")
    dense = keras.layers.Dense(3, name="head", dtype="mixed_float16")
    model = sparse(
        keras.Model(inputs, dense(inputs)), "mse", sparsity=0, quantize=False
    )
    kernels(model)[0].variable.assign(np.zeros((4, 3)))
    x = np.full((8, 4), 100.0, "float16")
    found = kernel_gradients(model, x, np.full((8, 3), 10.0))[0]
    np.testing.assert_allclose(found, -2 * 100 * 10 / 3, rtol=0.01)


def test_a_model_that_is_not_compiled_is_rejected():
    model = residual()
    prepare(model)
    with pytest.raises(ValueError, match="not compiled"):
        kernel_gradients(model, images(), labels())


def test_a_model_that_is_not_prepared_is_rejected():
    model = residual()
    model.compile("sgd", PLAIN)
    with pytest.raises(ValueError, match="prepare"):
        kernel_gradients(model, images(), labels())


def take(data, n, **kwargs):
    return list(itertools.islice(batches(data, **kwargs), n))


def test_arrays_are_shuffled_each_epoch():
    x, y = np.arange(10), np.arange(10) * 2
    found = take((x, y), 6, batch_size=3, seed=1)
    for one, two, three in found:
        np.testing.assert_array_equal(two, one * 2)
        assert len(one) == 3
        assert three is None
    first = np.concatenate([x for x, _, _ in found[:3]])
    second = np.concatenate([x for x, _, _ in found[3:]])
    assert len(set(first)) == len(set(second)) == 9
    assert (first != second).any()
    for skipped, batch in zip(
        take((x, y), 4, batch_size=3, seed=1, start=2), found[2:], strict=True
    ):
        np.testing.assert_array_equal(skipped[0], batch[0])
    (rows, _, _), *_ = take((x, y), 1)
    assert sorted(rows) == list(range(10))


def test_structures_of_arrays_and_sample_weights():
    x = {"a": np.arange(4), "b": np.arange(8).reshape(4, 2)}
    (found, y, weight), *_ = take((x, np.arange(4), np.arange(4.0)), 1, batch_size=2)
    np.testing.assert_array_equal(found["a"], y)
    np.testing.assert_array_equal(found["b"][:, 0], 2 * y)
    np.testing.assert_array_equal(weight, y)


class Sequence(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        return np.array([index]), np.array([-index])


@pytest.mark.parametrize(
    "data", [Sequence(), [(np.array([i]), np.array([-i])) for i in range(3)]]
)
def test_iterables_of_batches(data):
    found = take(data, 5, start=1)
    assert [int(x[0]) for x, _, _ in found] == [1, 2, 0, 1, 2]
    assert [int(y[0]) for _, y, _ in found] == [-1, -2, 0, -1, -2]


def test_a_tf_dataset():
    tf = pytest.importorskip("tensorflow")
    dataset = tf.data.Dataset.from_tensor_slices((images(4), labels(4))).batch(2)
    model = sparse(residual())
    for (x, y, _), rows in zip(take(dataset, 3), (0, 2, 0), strict=True):
        found = kernel_gradients(model, x, y)
        part = slice(rows, rows + 2)
        assert_close(found, independent(model, images(4)[part], labels(4)[part]))


def test_data_that_can_be_read_only_once_are_rejected():
    data = (batch for batch in [(images(2), labels(2))])
    with pytest.raises(ValueError, match="read repeatedly"):
        take(data, 2)
    assert layers.batches is batches
