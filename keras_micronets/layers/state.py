"""Nested layers that hold the state of prepared layers: masks and fake quantisers."""

from math import prod
from typing import Any

import keras
from keras import ops

from keras_micronets import _keras_private
from keras_micronets._backend import read, runs_on_torch
from keras_micronets._serialization import serializable

__all__ = [
    "Mask",
    "Quantizer",
    "State",
    "count_params",
    "plain_variables",
    "plain_weights",
    "refusal",
]


def refusal(method: str, name: str) -> str:
    """Return the error message of a method of Keras that replaces kernels."""
    return (
        f"Expected `{method}` to be called on plain Keras layers. Received: {name}, "
        "which was prepared for pruning and quantisation. Call "
        f"`keras_micronets.strip(model)` first, and `{method}` on the copy."
    )


class State(keras.layers.Layer):
    """Base class of the nested layers that hold masks and fake quantisers.

    Keras layers save a fixed list of their own weights and drop other state, but save
    nested layers. A file that a plain layer wrote has no such state: loading it calls
    `reset`.

    Attributes:
        reads_training: Boolean, whether `call` has the argument `training`.
    """

    reads_training = False

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs | {"autocast": False})  # the owner has cast inputs

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        is_traced = keras.utils.is_keras_tensor(inputs) or not runs_on_torch(inputs)
        if is_traced or not self.built:
            return super().__call__(inputs, *args, **kwargs)
        # All that Keras does around a call takes PyTorch as long as rounding a small
        # image, and the owner's call has done it.
        training = kwargs.pop("training", None)  # models give it to every layer
        if self.reads_training:
            is_given = training is not None
            kwargs["training"] = training if is_given else _keras_private.is_training()
        return self.call(inputs, *args, **kwargs)

    def reset(self) -> None:
        """Return to the state in which the owner computes as the plain layer does."""
        raise NotImplementedError

    def add_float(self, name: str, shape: Any = (), **kwargs: Any) -> keras.Variable:
        """Add a variable that is float32 in any policy; by default 0, untrained."""
        defaults = {"initializer": "zeros", "trainable": False}
        return self.add_weight(
            name=name, shape=shape, dtype="float32", autocast=False, **defaults | kwargs
        )

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """Raise an error, since Keras's `quantize` passes prepared layers over."""
        raise ValueError(refusal("quantize", "this model"))

    def load_own_variables(self, store: Any) -> None:
        if len(store.keys()) == 0:
            self.reset()
        else:
            super().load_own_variables(store)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape


@serializable()
class Mask(State):
    """Replace some weights of a kernel with zeros.

    The mask is one non-trainable Boolean for each weight. It is saved with the model.
    Masked weights get no gradient, with any optimizer.

    Call arguments:
        kernel: Float tensor of the shape that the mask was built with.

    Example:

    ```python
    mask = kmn.layers.Mask()
    mask.build((4, 2))
    mask.mask.assign([[True, False]] * 4)
    mask(keras.ops.ones((4, 2)))  # the second column is zero
    ```
    """

    def build(self, kernel_shape: tuple[int, ...]) -> None:
        self.mask = self.add_weight(
            name="mask",
            shape=kernel_shape,
            dtype="bool",
            initializer="ones",
            trainable=False,
        )

    def call(self, kernel: Any) -> Any:
        return ops.where(ops.convert_to_tensor(self.mask), kernel, 0.0)

    def reset(self) -> None:
        """Keep every weight."""
        self.mask.assign(ops.ones(self.mask.shape, "bool"))


class Quantizer(State):
    """Base class of the fake quantisers, which are off until `active` is set.

    Attributes:
        active: Variable, whether the quantiser rounds. It is a variable so that the
            training step is not compiled again when quantisation begins.
        frozen: Boolean, whether training leaves the range unchanged. Set by
            `layers.freeze`.
        constant: `None`, or, within `layers.constant_quantizers`, the Boolean that
            programs traced for an export read instead of `active`.
    """

    frozen = False

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.constant = None

    def build(self, input_shape: Any = None) -> None:
        self.active = self.add_weight(
            name="active", shape=(), dtype="bool", initializer="zeros", trainable=False
        )

    def reset(self) -> None:
        self.active.assign(False)

    def is_on(self) -> Any:
        """Return whether the quantiser rounds: a Boolean tensor, or a constant."""
        return read(self.active) if self.constant is None else self.constant

    def make_constant(self, *, keep: bool = True) -> None:
        """Make the state a constant of programs that are traced from now on.

        Args:
            keep: Boolean, whether to keep the present state; `False` to switch the
                quantiser off. Defaults to `True`.
        """
        self.constant = keep and bool(ops.convert_to_numpy(self.active))

    def make_variable(self) -> None:
        """Read the state from the variables again."""
        self.constant = None


def plain_variables(model: keras.Layer) -> list[keras.Variable]:
    """Return a model's variables without masks and quantisers.

    A plain copy has the same variables, in this order.
    """
    added = _state_ids(model)
    return [variable for variable in model.variables if id(variable) not in added]


def plain_weights(model: keras.Layer) -> list[keras.Variable]:
    """Return a model's weights without masks and quantisers.

    They are the weights that the model had before it was prepared, in the order of
    Keras's `get_weights`, which afterwards has masks and quantisers between them.

    Args:
        model: A built Keras model or layer, prepared or not.

    Example:

    ```python
    saved = model.get_weights()
    kmn.layers.prepare(model)
    weights = kmn.layers.plain_weights(model)
    for weight, value in zip(weights, saved, strict=True):
        weight.assign(value)  # `set_weights` also expects masks
    ```
    """
    added = _state_ids(model)
    return [weight for weight in model.weights if id(weight) not in added]


def count_params(model: keras.Layer) -> int:
    """Return the number of a model's parameters, without masks and quantisers.

    Keras's `count_params()` and `summary()` count the elements of masks, of one byte
    each, and the ranges of quantisers too. Masked weights are counted: the model that
    `strip` returns has as many parameters.

    Args:
        model: A built Keras model or layer, prepared or not.

    Example:

    ```python
    before = model.count_params()
    kmn.layers.prepare(model, quantize=True)
    kmn.layers.count_params(model)  # before
    ```
    """
    return sum(prod(weight.shape) for weight in plain_weights(model))


def _state_ids(model):
    return {
        id(variable)
        for layer in _keras_private.flatten_layers(model)
        if isinstance(layer, State)
        for variable in layer.variables
    }
