"""Set the learning rate of an optimizer, and give back the one it was compiled with."""

from typing import Any
from weakref import WeakKeyDictionary

import keras
import numpy as np
from keras import ops

__all__ = ["OptimizerRate"]

# By optimizer, the compiled rate and the last one set, until it is given back. A run
# that ends with an exception leaves them here for the next.
_SET: WeakKeyDictionary = WeakKeyDictionary()


class OptimizerRate:
    """Set the learning rate of a model's optimizer for the time of one `fit`.

    Args:
        optimizer: A Keras optimizer, also a `LossScaleOptimizer`, which hands its rate
            on to the optimizer within.

    Attributes:
        compiled: Float, the rate with which the optimizer was compiled, or that a user
            has set since.

    Raises:
        ValueError: If the optimizer was compiled with a schedule or a function, which
            Keras does not let one replace with a number, or its rate is not positive.
    """

    def __init__(self, optimizer: keras.optimizers.Optimizer):
        rate = optimizer.learning_rate
        if not isinstance(rate, keras.Variable):
            raise ValueError(
                "Expected an optimizer with a constant learning rate, which the cycles "
                f"can set. Received: {optimizer.name!r} with the schedule "
                f"{_schedule(optimizer)}. Compile with a number, the peak of the "
                "cycles' own schedule, or use a `Cycle` without a learning rate."
            )
        now = _value(rate)
        compiled, last = _SET.get(optimizer, (now, now))
        self.compiled = compiled if now == last else now
        if not self.compiled > 0:
            raise ValueError(
                "Expected an optimizer with a positive learning rate. Received: "
                f"{optimizer.name!r} with {self.compiled}. Compile the model again."
            )

    def set(self, model: keras.Model, rate: float) -> None:
        """Set the learning rate of the model's optimizer."""
        optimizer: Any = model.optimizer
        optimizer.learning_rate = rate
        _SET[optimizer] = self.compiled, float(np.float32(rate))

    def give_back(self, model: keras.Model) -> None:
        """Set the compiled learning rate again."""
        optimizer: Any = model.optimizer
        optimizer.learning_rate = self.compiled
        _SET.pop(optimizer, None)


def _value(variable):
    return float(np.float32(ops.convert_to_numpy(variable)))


def _schedule(optimizer):
    config = optimizer.get_config()
    config = config.get("inner_optimizer", {}).get("config", config)
    rate = config.get("learning_rate")
    return rate.get("class_name", rate) if isinstance(rate, dict) else rate
