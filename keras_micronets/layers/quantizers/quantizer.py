from keras import ops

from keras_micronets._backend import read
from keras_micronets.layers.state import State


class Quantizer(State):
    """Base of the fake quantisers: a switch, and a frozen form for export.

    While `held` is set, training leaves the range as it is (`layers.freeze`).
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
