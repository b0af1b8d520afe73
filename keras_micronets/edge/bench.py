"""How fast a bundle is, as a table."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .machine import MachineState, peak_memory
from .runner import EnsembleRunner

PERCENTILES = (50, 90, 99)


@dataclass(frozen=True)
class BenchReport:
    """Hold what `bench` measured. It prints as a table.

    Args:
        members: Milliseconds that each member, by its name, takes for one sample: the
            50th, 90th and 99th percentile.
        ensemble: The same of all members, combined, by how they are run.
        repeats: How many times each was measured.
        throughput: Samples a second, many at a time, on threads.
        peak_memory: Bytes that the process held at most, or `None`.
        before, after: State of the device.
    """

    members: dict[str, tuple[float, ...]]
    ensemble: dict[str, tuple[float, ...]]
    repeats: int
    throughput: float
    peak_memory: int | None
    before: MachineState
    after: MachineState

    def __str__(self) -> str:
        rows = [*self.members.items()]
        rows += [(f"ensemble, {name}", times) for name, times in self.ensemble.items()]
        width = max(len(name) for name, _ in rows)
        head = "".join(f"{f'p{n}':>10}" for n in PERCENTILES)
        lines = [f"{'one sample':<{width}}{head}  ms, of {self.repeats}"]
        for name, times in rows:
            lines.append(f"{name:<{width}}" + "".join(f"{ms:>10.3f}" for ms in times))
        return "\n".join([*lines, "", *self._others()])

    def _others(self):
        yield f"throughput   {self.throughput:,.0f} samples a second"
        if self.peak_memory is not None:
            yield f"peak memory  {self.peak_memory / 2**20:.0f} MiB"
        for name in ("before", "after"):
            if state := str(getattr(self, name)):
                yield f"{name:<11}  {state}"


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
