"""Measure the latency, throughput and memory of a bundle on this device."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .machine import MachineState, peak_memory
from .runner import EnsembleRunner
from .tensors import zero_samples

__all__ = ["BenchReport", "bench", "interleaved_medians", "interleaved_times"]

PERCENTILES = (50, 90, 99)
_BATCH = 32
_BATCH_REPEATS = 5


@dataclass(frozen=True)
class BenchReport:
    """Hold the measurements of `bench`, and print them as a table.

    Args:
        members: 50th, 90th and 99th percentile of the milliseconds for one sample, by
            the name of the member.
        ensemble: The same for all members combined, by the way they are run.
        repeats: Number of measurements of each.
        throughput: Samples per second, in batches and on threads.
        peak_memory: Largest number of bytes that the process held, or `None`.
        before: State of the device before the measurements.
        after: State of the device after them.
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
        return "\n".join([*lines, "", *self._device_lines()])

    def _device_lines(self) -> Iterator[str]:
        yield f"throughput   {self.throughput:,.0f} samples a second"
        if self.peak_memory is not None:
            yield f"peak memory  {self.peak_memory / 2**20:.0f} MiB"
        for name in ("before", "after"):
            if state := str(getattr(self, name)):
                yield f"{name:<11}  {state}"


def bench(runner: EnsembleRunner, *, repeats: int = 200) -> BenchReport:
    """Measure latency, throughput and memory of a bundle.

    The members and the ways to run them are measured in turns, so that a processor
    that slows down as it warms affects all of them alike. The inputs are zeros: an
    early exit may need another number of members for real inputs.

    Args:
        runner: The bundle, with all its members.
        repeats: Number of measurements of each. Defaults to `200`; more give steadier
            percentiles.

    Raises:
        ValueError: If `repeats` is less than one.
    """
    if repeats < 1:
        raise ValueError(f"Expected at least one repeat. Received: repeats={repeats}.")
    before = MachineState.read()
    x, batch = (
        zero_samples(runner.members[0].input_shape, count) for count in (1, _BATCH)
    )
    members = {m.name: lambda member=m: member.predict(x) for m in runner.members}
    ensemble = _ensemble_tasks(runner, x)
    times = interleaved_times([*members.values(), *ensemble.values()], repeats=repeats)
    rows = [tuple(row) for row in np.percentile(times, PERCENTILES, axis=0).T.tolist()]
    return BenchReport(
        members=dict(zip(members, rows, strict=False)),
        ensemble=dict(zip(ensemble, rows[len(members) :], strict=True)),
        repeats=repeats,
        throughput=_throughput(runner, batch),
        peak_memory=peak_memory(),
        before=before,
        after=MachineState.read(),
    )


def interleaved_times(
    tasks: Sequence[Callable[[], object]], *, repeats: int = 200
) -> np.ndarray:
    """Return the milliseconds of each task, `(repeats, tasks)`, measured in turns.

    Args:
        tasks: Functions without arguments; each is called once before it is measured.
        repeats: Number of measurements of each. Defaults to `200`.
    """
    _times(tasks)
    return np.array([_times(tasks) for _ in range(repeats)])


def interleaved_medians(
    tasks: Sequence[Callable[[], object]], *, repeats: int = 200
) -> list[float]:
    """Return the median milliseconds of each task, see `interleaved_times`."""
    return np.median(interleaved_times(tasks, repeats=repeats), axis=0).tolist()


def _ensemble_tasks(runner, x):
    tasks = {
        "one by one": lambda: runner.predict(x, parallel=False, early_exit=False),
        "threads": lambda: runner.predict(x, early_exit=False),
    }
    if runner.manifest.early_exit:
        n_members = int(runner.predict_early(x)[1][0])
        tasks[f"early exit after {n_members}"] = lambda: runner.predict_early(x)
    return tasks


def _throughput(runner, batch):
    task = [lambda: runner.predict(batch, early_exit=False)]
    return 1000 * _BATCH / interleaved_medians(task, repeats=_BATCH_REPEATS)[0]


def _times(tasks):
    return [_milliseconds(task) for task in tasks]


def _milliseconds(task):
    start = time.perf_counter()
    task()
    return 1000 * (time.perf_counter() - start)
