"""Small models and data that train in a second."""

import keras
import numpy as np
import pytest
from backends import BACKEND

from keras_micronets import layers


def data(n=40, seed=0):
    """Three classes in eight numbers, well apart."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    x = rng.normal(size=(n, 8)) + np.eye(3, 8)[y] * 3
    return x.astype("float32"), y


def dense_model(seed=0, activation="softmax", width=16):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(width, activation="relu", name="hidden"),
            keras.layers.Dense(3, activation=activation, name="head"),
        ]
    )


def norm_model(seed=0):
    """A model with batch normalisation between its two kernels."""
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(16, use_bias=False, name="hidden"),
            keras.layers.BatchNormalization(momentum=0.9, name="norm"),
            keras.layers.ReLU(name="relu"),
            keras.layers.Dense(3, activation="softmax", name="head"),
        ]
    )


def compiled(model, optimizer="adam", **kwargs):
    """Compile, without XLA, whose compilation takes longer than these fits.

    JAX is the exception: without it, it compiles each operation of each step.
    """
    if BACKEND == "torch" and kwargs.get("steps_per_execution", 1) > 1:
        pytest.skip("Keras has no steps_per_execution on PyTorch")
    kwargs = {
        "loss": "sparse_categorical_crossentropy",
        "metrics": ["accuracy"],
        "jit_compile": BACKEND == "jax",
    } | kwargs
    model.compile(optimizer, **kwargs)
    return model


def fit(model, *callbacks, epochs=4, n=40, **kwargs):
    """Train ten batches an epoch."""
    x, y = data(n)
    kwargs = {"batch_size": n // 10, "epochs": epochs, "verbose": 0} | kwargs
    return model.fit(x, y, callbacks=list(callbacks), **kwargs)


def masks(model):
    return {kernel.path: kernel.mask for kernel in layers.kernels(model)}


def counts(model):
    """Number of masked weights of each kernel."""
    return {path: int((~mask).sum()) for path, mask in masks(model).items()}


def can_go(mask):
    """Return the kept weights of a matrix that are not the last of a row or column."""
    return mask & (mask.sum(0) > 1) & (mask.sum(1) > 1)[:, None]


def assert_zeros_where_masked(model):
    kernels = layers.kernels(model)
    assert kernels
    for kernel in kernels:
        assert (kernel.weights[~kernel.mask] == 0).all(), kernel.path


class Watch(keras.callbacks.Callback):
    """Call a function with the model and the step after each batch or epoch."""

    def __init__(self, on_batch=None, on_epoch=None):
        super().__init__()
        self.on_batch = on_batch
        self.on_epoch = on_epoch
        self.step = 0

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        if self.on_batch:
            self.on_batch(self.model, self.step)

    def on_epoch_end(self, epoch, logs=None):
        if self.on_epoch:
            self.on_epoch(self.model, epoch)


class Interrupt(keras.callbacks.Callback):
    """Interrupt a run at the beginning of an epoch, as a crash would."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise InterruptedError


@keras.saving.register_keras_serializable(package="tiny_keras")
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(3, activation="softmax")

    def call(self, inputs):
        return self.dense(inputs)
