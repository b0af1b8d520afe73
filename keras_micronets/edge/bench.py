"""How long a bundle takes on this device."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .runner import EnsembleRunner


@dataclass(frozen=True)
class Latency:
    """Hold the median time of one prediction of one sample, in milliseconds.

    Args:
        members: Time of each member by its name.
        sequential: Time of all members one after the other, combined.
        threaded: Time of all members on the runner's threads, combined.
        repeats: How many times each was measured.
    """

    members: dict[str, float]
    sequential: float
    threaded: float
    repeats: int

    def __str__(self) -> str:
        rows = {
            **self.members,
            "ensemble, one by one": self.sequential,
            "ensemble, threads": self.threaded,
        }
        width = max(map(len, rows))
        head = f"{'one sample':<{width}}  median of {self.repeats}, ms"
        return "\n".join([head, *(f"{n:<{width}}  {ms:.3f}" for n, ms in rows.items())])


def bench(runner: EnsembleRunner, *, repeats: int = 200) -> Latency:
    """Measure the latency of a bundle, one sample at a time.

    What is compared is measured in turns, so that a processor that slows down
    as it warms slows all of them down alike.

    Args:
        runner: The bundle.
        repeats: How often to measure. Defaults to `200`.

    Returns:
        The medians, a `Latency` that prints as a table.

    Raises:
        ValueError: If `repeats` is less than one.
    """
    if repeats < 1:
        raise ValueError(f"Expected at least one repeat. Received: repeats={repeats}.")
    x = np.zeros((1, *runner.members[0].input_shape), "float32")
    tasks = [lambda member=m: member.predict(x) for m in runner.members]
    tasks += [lambda: runner.predict(x, parallel=False), lambda: runner.predict(x)]
    *members, sequential, threaded = interleaved_medians(tasks, repeats=repeats)
    names = [member.name for member in runner.members]
    return Latency(
        dict(zip(names, members, strict=True)), sequential, threaded, repeats
    )


def interleaved_medians(
    tasks: Sequence[Callable[[], object]], *, repeats: int = 200
) -> list[float]:
    """Return the median time of each task in milliseconds, measured in turns.

    Args:
        tasks: Functions without arguments.
        repeats: How often each is measured, after one call that is not.
            Defaults to `200`.
    """
    _times(tasks)
    return np.median([_times(tasks) for _ in range(repeats)], axis=0).tolist()


def _times(tasks):
    return [_milliseconds(task) for task in tasks]


def _milliseconds(task):
    start = time.perf_counter()
    task()
    return 1000 * (time.perf_counter() - start)
