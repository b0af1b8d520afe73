"""Tables of `device/edge.py`."""

from statistics import mean, median, stdev

BARS = {"seconds": 0.5, "megabytes": 120, "overhead": 0.05, "threads": 0.6}


def table(results: dict) -> str:
    """Return the tables of the results, in Markdown."""
    measured = [line for name in _LINES for line in _lines(results, name)]
    lines = ["| | measured | bar |", "|---|---|---|", *measured, ""] if measured else []
    if "early_exit" in results:
        lines += _early_exit_lines(results["early_exit"])
    return "\n".join(lines)


def ratio(times: dict, name: str, to: str) -> float:
    """Return the median over rounds of one task's time by another's."""
    return median(a / b for a, b in zip(times[name], times[to], strict=True))


def _lines(results, name):
    return _LINES[name](results[name]) if name in results else []


def _start(found):
    seconds, megabytes = median(found["seconds"]), median(found["megabytes"])
    yield (
        f"| start to first answer, {found['members']} ResNet-8 | {seconds:.2f} s "
        f"| {BARS['seconds']} s |"
    )
    yield f"| peak memory | {megabytes:.0f} MB | {BARS['megabytes']} MB |"


def _overhead(found):
    times = found["milliseconds"]
    for name, shown in (("direct", "direct code"), ("bare", "LiteRT calls only")):
        more = ratio(times, "runner", name) - 1
        bar = f"{BARS['overhead']:.0%}" if name == "direct" else ""
        yield (
            f"| one image, one member: the runner relative to {shown}, "
            f"{median(times[name]):.3f} ms | {more:+.1%} | {bar} |"
        )


def _threads(found):
    for name in ("one", "many"):
        times, n_samples = found[name]["milliseconds"], found[name]["samples"]
        yield (
            f"| 4 members, 2 threads relative to 1, batch of {n_samples}, "
            f"{median(times['1 thread']):.2f} ms | "
            f"{ratio(times, '2 threads', '1 thread'):.2f} | {BARS['threads']} |"
        )


_LINES = {"start": _start, "overhead": _overhead, "threads": _threads}


def _early_exit_lines(found):
    yield (
        "| pool | max. members | kept | tolerance | calls saved "
        "| accuracy lost, points | largest in a split |"
    )
    yield "|---|---|---|---|---|---|---|"
    for row in found["rows"]:
        lost = [100 * share for share in row["lost"]]
        yield (
            f"| {row['pool']} | {row['members']} | {mean(row['kept']):.1f} "
            f"| {row['tolerance']:g} "
            f"| {mean(row['saved']):.0%} ± {stdev(row['saved']):.0%} "
            f"| {mean(lost):.3f} ± {stdev(lost):.3f} | {max(lost):.2f} |"
        )
