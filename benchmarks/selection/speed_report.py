"""Tables of `selection/speed.py`."""

import numpy as np


def table(results: dict) -> str:
    """Return the tables of the results, in Markdown."""
    return "\n\n".join([_methods(results), _loops(results), _growth(results)])


def _methods(results):
    lines = [
        "| method | seconds | slowest | runs | peak GiB |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {row['seconds']:.1f} | {row['slowest']:.1f} | {row['repeats']} | "
        f"{row['peak_gib']:.2f} |"
        for name, row in results["methods"].items()
    ]
    return "\n".join(lines)


def _loops(results):
    lines = [
        "| pairs of 200 learners | loop, s | this package, s | ratio |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {row['measure']} | {row['loop_seconds']:.3f} | {row['our_seconds']:.4f} | "
        f"{row['ratio']:.0f} |"
        for row in results["loops"]
    ]
    return "\n".join(lines)


def _growth(results):
    lines = [
        "| method | exponent in learners | expected | exponent in samples | expected |",
        "|---|---|---|---|---|",
    ]
    for name, (learners, samples) in results["must"].items():
        fitted = [
            exponent(results["growth"], name, by) for by in ("learners", "samples")
        ]
        lines.append(
            f"| {name} | {fitted[0]:.2f} | {learners} | {fitted[1]:.2f} | {samples} |"
        )
    return "\n".join(lines)


def exponent(rows: list[dict], name: str, by: str) -> float:
    """Fit the exponent that the time of a method grows with.

    Args:
        rows: What was timed.
        name: The method.
        by: `"learners"` or `"samples"`, the other being the same.
    """
    other = {"learners": "samples", "samples": "learners"}[by]
    of_method = [row for row in rows if row["method"] == name]
    values = [row[other] for row in of_method]
    same = max(set(values), key=values.count)
    sizes = {row[by]: row["seconds"] for row in of_method if row[other] == same}
    return float(np.polyfit(np.log(list(sizes)), np.log(list(sizes.values())), 1)[0])
