from dataclasses import dataclass

from keras import ops

from keras_micronets.layers.device.source import Exact


@dataclass(frozen=True)
class Rectified(Exact):
    """Behind a rectifier with a limit, which the device applies to the integers.

    Attributes:
        before: The `Exact` source of what is rectified.
        limit: Number, the largest output.
    """

    before: Exact
    limit: float

    def integers(self, values, target):
        integers = self.before.integers(values, target)
        return ops.clip(integers, 0, ops.round(self.limit / target.scale()))


def rectified(before, limit):
    """Return the source of what a rectifier puts out, `None` if there is none.

    Args:
        before: The `Exact` source of what it reads, or `None`.
        limit: Number, its largest output; `None` if there is no limit.
    """
    return before if None in (before, limit) else Rectified(before, limit)
