"""How fast a bundle is, as a table."""

from dataclasses import dataclass

from .machine import MachineState

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
