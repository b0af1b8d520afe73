"""Sparsity as a function of progress, from 0 at a run's start to 1 at its end.

A schedule is any callable from progress to a sparsity in [0, 1). These classes
can be saved with a configuration; `as_schedule` also takes a `PruningSchedule` of
tensorflow-model-optimization as it is.
"""

import warnings
from collections.abc import Callable

import keras


class Schedule:
    """Base class of the schedules: a pure callable with a configuration."""

    def __call__(self, progress: float) -> float:
        """Return the sparsity at a moment of the run."""
        raise NotImplementedError

    def get_config(self) -> dict:
        """Return the arguments that make an equal schedule."""
        return dict(vars(self))

    @classmethod
    def from_config(cls, config: dict) -> "Schedule":
        """Make a schedule from what `get_config` returned."""
        return cls(**config)

    def __repr__(self):
        arguments = ", ".join(f"{k}={v!r}" for k, v in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


@keras.saving.register_keras_serializable(package="keras_micronets")
class Constant(Schedule):
    """One sparsity from a given moment on, none before.

    Args:
        sparsity: Float in [0, 1).
        begin: Float in [0, 1], the progress from which it holds. Defaults to `0.0`.

    Raises:
        ValueError: If an argument lies outside its range.
    """

    def __init__(self, sparsity: float, *, begin: float = 0.0):
        self.sparsity = check_sparsity(sparsity, "sparsity")
        self.begin = _check_progress(begin, "begin")

    def __call__(self, progress):
        return self.sparsity if progress >= self.begin else 0.0


@keras.saving.register_keras_serializable(package="keras_micronets")
class PolynomialDecay(Schedule):
    """A ramp from one sparsity to another, steep first and flat at its end.

    The density left to remove decays with a power of the remaining time (Zhu and
    Gupta 2017, "To prune, or not to prune").

    Args:
        initial_sparsity: Float in [0, 1), the sparsity up to `begin`.
        final_sparsity: Float in [0, 1), the sparsity from `end` on.
        begin: Float in [0, 1], progress at which the ramp begins. Defaults to
            `0.0`.
        end: Float in [0, 1], progress at which it ends; what is left of the run
            lets the weights settle. Defaults to `0.75`.
        power: Positive float; 1 is a straight line. Defaults to `3.0`.

    Raises:
        ValueError: If an argument lies outside its range.

    Example:

    ```python
    schedule = keras_micronets.schedules.PolynomialDecay(0.0, 0.8)
    schedule(0.0), schedule(0.75), schedule(1.0)  # 0.0, 0.8, 0.8
    ```
    """

    def __init__(
        self,
        initial_sparsity: float,
        final_sparsity: float,
        *,
        begin: float = 0.0,
        end: float = 0.75,
        power: float = 3.0,
    ):
        self.initial_sparsity = check_sparsity(initial_sparsity, "initial_sparsity")
        self.final_sparsity = check_sparsity(final_sparsity, "final_sparsity")
        self.begin = _check_progress(begin, "begin")
        self.end = _check_progress(end, "end")
        self.power = power
        if not begin < end:
            raise ValueError(
                "Expected a ramp that begins before it ends. "
                f"Received: begin={begin}, end={end}."
            )
        if not power > 0:
            raise ValueError(f"Expected a positive power. Received: power={power}.")

    def __call__(self, progress):
        done = (progress - self.begin) / (self.end - self.begin)
        left = (1.0 - min(max(done, 0.0), 1.0)) ** self.power
        change = self.initial_sparsity - self.final_sparsity
        return self.final_sparsity + change * left


class TfmotSchedule:
    """Adapt a `tfmot.sparsity.keras.PruningSchedule` to progress.

    The tfmot schedule counts optimizer steps: it is asked at `progress * steps`.

    Args:
        schedule: A `PruningSchedule` of tensorflow-model-optimization.
        total_steps: Integer, the steps of the whole run.
    """

    def __init__(self, schedule, total_steps: int):
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
        """Return the sparsity the schedule answers with at this moment."""
        return float(self._ask(progress)[1])

    def is_due(self, progress: float) -> bool:
        """Return whether the schedule wants an update at this step."""
        return bool(self._ask(progress)[0])

    def _ask(self, progress):
        return self.schedule(round(progress * self.total_steps))

    def __repr__(self):
        return f"tfmot {self.schedule.get_config()}"


def as_schedule(schedule, total_steps: int | None) -> Callable[[float], float]:
    """Return a callable from progress to sparsity, checked over the whole run.

    Args:
        schedule: A schedule of this module, any callable from progress to sparsity,
            or a `tfmot.sparsity.keras.PruningSchedule`.
        total_steps: Integer, the steps of the run, which tfmot's schedules need;
            `None` if they are not known.

    Raises:
        TypeError: If it is not callable.
        ValueError: If it leaves [0, 1) anywhere on a grid of 101 moments.
    """
    if not callable(schedule):
        raise TypeError(
            "Expected a schedule: a callable from progress to sparsity, such as "
            f"PolynomialDecay(0.0, 0.8). Received: {schedule!r}."
        )
    if _is_tfmot(schedule):
        if total_steps is None:
            raise ValueError(
                "A tfmot schedule counts steps, and the steps of this run are not "
                "known. Pass `steps_per_epoch` to `fit`, or use a schedule of "
                f"keras_micronets.schedules. Received: {schedule!r}."
            )
        schedule = TfmotSchedule(schedule, total_steps)
    for percent in range(101):
        moment = f"{schedule!r} at {percent} % of the run"
        check_sparsity(schedule(percent / 100), moment)
    return schedule


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
            "Expected a moment of the run in [0, 1], as a fraction of it. "
            f"Received: {name}={value}."
        )
    return value
