"""Sparsity as a function of progress, from 0 at the start of a run to 1 at its end.

Where a schedule is expected, four things are accepted: a float in [0, 1), the sparsity
that `PolynomialDecay(0.0, sparsity)` reaches after half of the run; any callable from
progress to a sparsity, such as the classes of this module; a
`keras.optimizers.schedules.LearningRateSchedule`; and a `PruningSchedule` of
tensorflow-model-optimization. The last two count steps: they are called with the number
of batches since the first epoch of the run.
"""

import warnings
from collections.abc import Callable
from numbers import Real
from typing import Any

from keras_micronets._serialization import Configurable, serializable

__all__ = [
    "Constant",
    "PolynomialDecay",
    "Schedule",
    "as_schedule",
    "is_keras_schedule",
]


class Schedule(Configurable):
    """Base class of the schedules: a pure callable with a configuration."""

    renamed = {"begin": "start"}

    def __call__(self, progress: float) -> float:
        """Return the sparsity at a progress in [0, 1]."""
        raise NotImplementedError


@serializable()
class Constant(Schedule):
    """Apply one sparsity from a given progress on, and none before.

    Args:
        sparsity: Float in [0, 1).
        start: Float in [0, 1], the progress from which it applies. Defaults to
            `0.0`.

    Raises:
        ValueError: If an argument lies outside its range.

    Example:

    ```python
    schedule = keras_micronets.schedules.Constant(0.5, start=0.25)
    schedule(0.0), schedule(0.25)  # 0.0, 0.5
    ```
    """

    def __init__(self, sparsity: float, *, start: float = 0.0):
        self.sparsity = check_sparsity(sparsity, "sparsity")
        self.start = _check_progress(start, "start")

    def __call__(self, progress: float) -> float:
        return self.sparsity if progress >= self.start else 0.0


@serializable()
class PolynomialDecay(Schedule):
    """Increase the sparsity from one value to another, fast at first, then slowly.

    The density left to remove decays with a power of the remaining time.

    Args:
        initial_sparsity: Float in [0, 1), the sparsity up to `start`.
        final_sparsity: Float in [0, 1), the sparsity from `end` on.
        start: Float in [0, 1], the progress at which the sparsity begins to change.
            Defaults to `0.0`.
        end: Float in [0, 1], the progress at which it is final; the weights adapt in
            the rest of the run. Defaults to `0.5`.
        power: Positive float; 1 is a straight line. Defaults to `3.0`.

    Raises:
        ValueError: If an argument lies outside its range.

    Example:

    ```python
    schedule = keras_micronets.schedules.PolynomialDecay(0.0, 0.8)
    schedule(0.0), schedule(0.5), schedule(1.0)  # 0.0, 0.8, 0.8
    ```

    Reference: Zhu and Gupta 2017, "To prune, or not to prune: exploring the
    efficacy of pruning for model compression".
    """

    def __init__(
        self,
        initial_sparsity: float,
        final_sparsity: float,
        *,
        start: float = 0.0,
        end: float = 0.5,
        power: float = 3.0,
    ):
        self.initial_sparsity = check_sparsity(initial_sparsity, "initial_sparsity")
        self.final_sparsity = check_sparsity(final_sparsity, "final_sparsity")
        self.start = _check_progress(start, "start")
        self.end = _check_progress(end, "end")
        self.power = power
        if not start < end:
            raise ValueError(
                f"Expected `start` < `end`. Received: start={start}, end={end}."
            )
        if not power > 0:
            raise ValueError(f"Expected a positive power. Received: power={power}.")

    def __call__(self, progress: float) -> float:
        done = (progress - self.start) / (self.end - self.start)
        left = (1.0 - min(max(done, 0.0), 1.0)) ** self.power
        change = self.initial_sparsity - self.final_sparsity
        return self.final_sparsity + change * left


class StepSchedule:
    """Call a Keras learning rate schedule, which counts steps, by progress.

    Args:
        schedule: A Keras schedule whose values are sparsities.
        total_steps: Integer, the steps of the whole run.
    """

    last_step = "decay_steps"

    def __init__(self, schedule: Any, total_steps: int):
        self.schedule = schedule
        self.total_steps = total_steps
        end = {**schedule.get_config(), **vars(schedule)}.get(self.last_step, -1)
        if end > total_steps:
            warnings.warn(
                f"{type(schedule).__name__} ends at step {end}, but the run has "
                f"{total_steps} steps: its final sparsity will not be reached.",
                stacklevel=2,
            )

    def __call__(self, progress: float) -> float:
        """Return the sparsity of the schedule at this progress."""
        return float(self.at(progress))

    def at(self, progress: float) -> Any:
        """Return what the schedule returns at the step of this progress."""
        return self.schedule(round(progress * self.total_steps))

    def __repr__(self) -> str:
        return f"{type(self.schedule).__name__} {self.schedule.get_config()}"


class TfmotSchedule(StepSchedule):
    """Call a `tfmot.sparsity.keras.PruningSchedule`, which counts steps, by progress.

    Args:
        schedule: A `PruningSchedule` of tensorflow-model-optimization.
        total_steps: Integer, the steps of the whole run.
    """

    last_step = "end_step"

    def __call__(self, progress: float) -> float:
        """Return the sparsity of the tfmot schedule at this progress."""
        return float(self.at(progress)[1])

    def is_due(self, progress: float) -> bool:
        """Return whether the tfmot schedule updates the masks at this step."""
        return bool(self.at(progress)[0])

    def __repr__(self) -> str:
        return f"tfmot {self.schedule.get_config()}"


def as_schedule(schedule: Any, total_steps: int | None) -> Callable[[float], float]:
    """Return a callable from progress to sparsity, checked over the whole run.

    Args:
        schedule: A float, any callable from progress to sparsity, a Keras schedule or
            a `tfmot.sparsity.keras.PruningSchedule`, as this module describes them.
        total_steps: Integer, the steps of the run, which the last two need; `None` if
            they are not known.

    Raises:
        TypeError: If it is none of these.
        ValueError: If its value leaves [0, 1) at any whole per cent of the run, or it
            counts steps and their number is not known.
    """
    if isinstance(schedule, Real) and not isinstance(schedule, bool):
        return PolynomialDecay(0.0, check_sparsity(float(schedule), "schedule"))
    if not callable(schedule):
        raise TypeError(
            "Expected a schedule: a sparsity, or a callable from progress to sparsity, "
            f"such as PolynomialDecay(0.0, 0.8). Received: {schedule!r}."
        )
    adapter = StepSchedule if is_keras_schedule(schedule) else None
    adapter = TfmotSchedule if _is_tfmot(schedule) else adapter
    if adapter is not None:
        if total_steps is None:
            raise ValueError(
                "Expected a run of known length, since this schedule counts steps. "
                "Pass `steps_per_epoch` to `fit`, or use a schedule of "
                f"keras_micronets.schedules. Received: {schedule!r}."
            )
        schedule = adapter(schedule, total_steps)
    function: Any = schedule
    for percent in range(101):
        sparsity = function(percent / 100)
        if not 0.0 <= sparsity < 1.0:
            check_sparsity(sparsity, f"{schedule!r} at {percent} % of the run")
    return function


def is_keras_schedule(value: Any) -> bool:
    """Return whether a value is a learning rate schedule of Keras 3 or of tf_keras."""
    return any(base.__name__ == "LearningRateSchedule" for base in type(value).__mro__)


def _is_tfmot(schedule):
    modules = [base.__module__ for base in type(schedule).__mro__]
    return any(module.startswith("tensorflow_model_optimization") for module in modules)


def check_sparsity(value: float, name: str) -> float:
    """Return a sparsity, or raise a `ValueError` if it lies outside [0, 1)."""
    if not 0.0 <= value < 1.0:
        raise ValueError(
            "Expected a sparsity in [0, 1), the share of weights to remove. "
            f"Received: {name}={value}."
        )
    return value


def _check_progress(value, name):
    if not 0.0 <= value <= 1.0:
        raise ValueError(
            f"Expected `{name}` in [0, 1], a fraction of the run. "
            f"Received: {name}={value}."
        )
    return value
