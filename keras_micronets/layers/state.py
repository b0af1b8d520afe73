import keras
from keras import ops


def read(variable):
    """Return a variable's present value as a tensor that `ops.cond` takes.

    `ops.convert_to_tensor` passes TensorFlow's variables through as they are, and
    PyTorch's values change in place, which what a gradient remembers must not.
    """
    value = ops.stop_gradient(variable)
    return ops.copy(value) if keras.backend.backend() == "torch" else value


def choose(condition, on, off):
    """Return `on()` or `off()`, as `ops.cond` does.

    Where the condition has a value already, JAX would compile both anew at each
    call, and PyTorch compile anew what calls Keras's `cond`, which counts its calls.

    Args:
        condition: Boolean tensor of one element.
        on: Function without arguments.
        off: Function without arguments.
    """
    if _has_value(condition):
        return on() if condition else off()
    return ops.cond(condition, on, off)


def _has_value(tensor):
    if keras.backend.backend() == "jax":
        import jax

        return not isinstance(tensor, jax.core.Tracer)
    return keras.backend.backend() == "torch" and not tensor.is_meta


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


class Quantizer(State):
    """Base of the fake quantisers: a switch, and a frozen form for export.

    While `held` is set, training leaves the range as it is (`layers.hold`).
    """

    held = False

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.frozen = None

    def build(self, input_shape=None):
        self.active = self.add_weight(
            name="active", shape=(), dtype="bool", initializer="zeros", trainable=False
        )

    def reset(self):
        self.active.assign(False)

    def is_on(self):
        """Return whether the quantiser rounds: a Boolean tensor, or a frozen state."""
        return read(self.active) if self.frozen is None else self.frozen

    def freeze(self, *, keep: bool = True) -> None:
        """Make the state a constant of the program traced next.

        Args:
            keep: Boolean, whether it is the present state; otherwise the quantiser
                is off. Defaults to `True`.
        """
        self.frozen = keep and bool(ops.convert_to_numpy(self.active))

    def unfreeze(self) -> None:
        """Read the state from the variables again."""
        self.frozen = None
