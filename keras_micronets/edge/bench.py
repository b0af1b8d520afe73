"""How long a bundle takes on this device."""

import time
from collections.abc import Callable, Sequence

import numpy as np

from .bench_report import PERCENTILES, BenchReport
from .machine import MachineState, peak_memory
from .runner import EnsembleRunner

_BATCH = 32
_TIMES = 5


def bench(runner: EnsembleRunner, *, repeats: int = 200) -> BenchReport:
    """Measure latency, throughput and memory of a bundle.

    What is compared is measured in turns, so that a processor that slows down
    as it warms slows all of them down alike. Inputs are zeros; how many members an
    early exit takes for these says nothing of other inputs.

    Args:
        runner: The bundle, with all its members.
        repeats: How often to measure. Defaults to `200`.

    Returns:
        A `BenchReport`, which prints as a table.

    Raises:
        ValueError: If `repeats` is less than one.
    """
    if repeats < 1:
        raise ValueError(f"Expected at least one repeat. Received: repeats={repeats}.")
    before = MachineState.read()
    x = np.zeros((1, *runner.members[0].input_shape), "float32")
    members = {m.name: lambda member=m: member.predict(x) for m in runner.members}
    together = _together(runner, x)
    tasks = [*members.values(), *together.values()]
    times = _percentiles(interleaved_times(tasks, repeats=repeats))
    return BenchReport(
        members=dict(zip(members, times, strict=False)),
        ensemble=dict(zip(together, times[len(members) :], strict=True)),
        repeats=repeats,
        throughput=_throughput(runner, np.repeat(x, _BATCH, axis=0)),
        peak_memory=peak_memory(),
        before=before,
        after=MachineState.read(),
    )


def interleaved_times(
    tasks: Sequence[Callable[[], object]], *, repeats: int = 200
) -> np.ndarray:
    """Return the milliseconds of each task, `(repeats, tasks)`, measured in turns.

    Args:
        tasks: Functions without arguments.
        repeats: How often each is measured, after one call that is not.
            Defaults to `200`.
    """
    _times(tasks)
    return np.array([_times(tasks) for _ in range(repeats)])


def interleaved_medians(
    tasks: Sequence[Callable[[], object]], *, repeats: int = 200
) -> list[float]:
    """Return the median of what `interleaved_times` returns, for each task."""
    return np.median(interleaved_times(tasks, repeats=repeats), axis=0).tolist()


def _together(runner, x):
    tasks = {
        "one by one": lambda: runner.predict(x, parallel=False, early_exit=False),
        "threads": lambda: runner.predict(x, early_exit=False),
    }
    if runner.manifest.early_exit:
        n_asked = int(runner.predict_early(x)[1][0])
        tasks[f"early exit after {n_asked}"] = lambda: runner.predict_early(x)
    return tasks


def _percentiles(times):
    return [tuple(row) for row in np.percentile(times, PERCENTILES, axis=0).T.tolist()]


def _throughput(runner, batch):
    task = [lambda: runner.predict(batch, early_exit=False)]
    return 1000 * len(batch) / interleaved_medians(task, repeats=_TIMES)[0]


def _times(tasks):
    return [_milliseconds(task) for task in tasks]


def _milliseconds(task):
    start = time.perf_counter()
    task()
    return 1000 * (time.perf_counter() - start)
