"""Sparsity as a function of progress, from 0 at the start of a run to 1 at its end.

A schedule is any callable from progress to a sparsity in [0, 1). These classes have a
configuration; `as_schedule` also accepts a `PruningSchedule` of
tensorflow-model-optimization.
"""

import warnings
from collections.abc import Callable
from typing import Any

from keras_micronets._serialization import Configurable, serializable

__all__ = ["Constant", "PolynomialDecay", "Schedule", "as_schedule"]


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
            the rest of the run. Defaults to `0.75`.
        power: Positive float; 1 is a straight line. Defaults to `3.0`.

    Raises:
        ValueError: If an argument lies outside its range.

    Example:

    ```python
    schedule = keras_micronets.schedules.PolynomialDecay(0.0, 0.8)
    schedule(0.0), schedule(0.75), schedule(1.0)  # 0.0, 0.8, 0.8
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
        end: float = 0.75,
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


class TfmotSchedule:
    """Call a `tfmot.sparsity.keras.PruningSchedule`, which counts steps, by progress.

    Args:
        schedule: A `PruningSchedule` of tensorflow-model-optimization.
        total_steps: Integer, the steps of the whole run.
    """

    def __init__(self, schedule: Any, total_steps: int):
        self.schedule = schedule
        self.total_steps = total_steps
        end = getattr(schedule, "end_step", -1)
        if end > total_steps:
            warnings.warn(
                f"The tfmot schedule ends at step {end}, but the run has "
                f"{total_steps} steps: its final sparsity will not be reached.",
                stacklevel=2,
            )

    def __call__(self, progress: float) -> float:
        """Return the sparsity of the tfmot schedule at this progress."""
        return float(self._call(progress)[1])

    def is_due(self, progress: float) -> bool:
        """Return whether the tfmot schedule updates the masks at this step."""
        return bool(self._call(progress)[0])

    def _call(self, progress):
        return self.schedule(round(progress * self.total_steps))

    def __repr__(self) -> str:
        return f"tfmot {self.schedule.get_config()}"


def as_schedule(schedule: Any, total_steps: int | None) -> Callable[[float], float]:
    """Return a callable from progress to sparsity, checked over the whole run.

    Args:
        schedule: A schedule of this module, any callable from progress to sparsity,
            or a `tfmot.sparsity.keras.PruningSchedule`.
        total_steps: Integer, the steps of the run, which tfmot's schedules need;
            `None` if they are not known.

    Raises:
        TypeError: If it is not callable.
        ValueError: If its value leaves [0, 1) at any whole per cent of the run.
    """
    if not callable(schedule):
        raise TypeError(
            "Expected a schedule: a callable from progress to sparsity, such as "
            f"PolynomialDecay(0.0, 0.8). Received: {schedule!r}."
        )
    if _is_tfmot(schedule):
        if total_steps is None:
            raise ValueError(
                "Expected a run of known length, since a tfmot schedule counts steps. "
                "Pass `steps_per_epoch` to `fit`, or use a schedule of "
                f"keras_micronets.schedules. Received: {schedule!r}."
            )
        schedule = TfmotSchedule(schedule, total_steps)
    function: Any = schedule
    for percent in range(101):
        sparsity = function(percent / 100)
        if not 0.0 <= sparsity < 1.0:
            check_sparsity(sparsity, f"{schedule!r} at {percent} % of the run")
    return function


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
