import keras
from keras import ops

from keras_micronets._backend import read
from keras_micronets._serialization import serializable


class State(keras.layers.Layer):
    """Base of the small nested layers that hold a twin's masks and quantisers.

    Keras layers save a fixed list of their own weights, and would drop any state
    added to themselves; a nested layer is saved beside them. A file written by a
    plain layer has no such state: loading it calls `reset()`.
    """

    def reset(self) -> None:
        """Return to the state in which the twin computes what the plain layer does."""
        raise NotImplementedError

    def load_own_variables(self, store):
        if len(store.keys()) == 0:
            self.reset()
        else:
            super().load_own_variables(store)

    def compute_output_shape(self, input_shape):
        return input_shape


@serializable()
class Mask(State):
    """Keep some weights of a kernel and hold the others at zero.

    A twin multiplies its kernel with a mask that lives in this nested layer, as
    one non-trainable boolean a weight: gradients of masked weights are zero by
    themselves, and the mask is saved and loaded with the model.

    Call arguments:
        kernel: Float tensor of the shape that the mask was built with.

    Example:

    ```python
    mask = keras_micronets.layers.Mask()
    mask.build((4, 2))
    mask.mask.assign([[True, False]] * 4)
    mask(keras.ops.ones((4, 2)))  # the second column is zero
    ```
    """

    def build(self, kernel_shape):
        self.mask = self.add_weight(
            name="mask",
            shape=kernel_shape,
            dtype="bool",
            initializer="ones",
            trainable=False,
        )

    def call(self, kernel):
        return ops.where(ops.convert_to_tensor(self.mask), kernel, 0.0)

    def reset(self):
        """Keep every weight."""
        self.mask.assign(ops.ones(self.mask.shape, "bool"))


class Quantizer(State):
    """Base of the fake quantisers: a switch, and a frozen form for export.

    While `frozen` is set, training leaves the range as it is (`layers.freeze`).
    """

    frozen = False

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.constant = None

    def build(self, input_shape=None):
        self.active = self.add_weight(
            name="active", shape=(), dtype="bool", initializer="zeros", trainable=False
        )

    def reset(self):
        self.active.assign(False)

    def is_on(self):
        """Return whether the quantiser rounds: a Boolean tensor, or a frozen state."""
        return read(self.active) if self.constant is None else self.constant

    def make_constant(self, *, keep: bool = True) -> None:
        """Make the state a constant of the program traced next.

        Args:
            keep: Boolean, whether it is the present state; otherwise the quantiser
                is off. Defaults to `True`.
        """
        self.constant = keep and bool(ops.convert_to_numpy(self.active))

    def make_variable(self) -> None:
        """Read the state from the variables again."""
        self.constant = None
