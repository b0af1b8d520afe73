"""Tables of `cifar10/quantization.py`."""

import numpy as np

KINDS = {
    "float32": "float32",
    "float16": "float16",
    "dynamic": "dynamic range: int8 kernels, float computation",
    "int16": "int16 with int8 kernels, post-training",
    "int8 after training": "int8, post-training",
    "int8": "int8, QAT",
    "percentile": "int8, QAT, percentiles",
    "learned steps": "int8, QAT, learned step sizes",
    "4-bit kernels after training": "int8, 4-bit kernels, post-training",
    "4-bit kernels": "int8, 4-bit kernels, QAT",
    "4-bit kernels, learned steps": "int8, 4-bit kernels, QAT, learned step sizes",
}


def table(results):
    """Return the results as four tables for the documentation."""
    rows = _rows(results["runs"])
    tables = (_sparsities(rows), _files(rows), _neighbour(rows), _zeros(rows))
    return "\n\n".join("\n".join(lines) for lines in tables)


def _rows(runs):
    """Return, by sparsity and kind, a dictionary from seed to row."""
    rows = {}
    for run in runs:
        _, _, sparsity = run["branch"].partition(", ")
        if not run["branch"].startswith(("float32", "int8")):
            sparsity = "dense"
        for kind, row in run["rows"].items():
            rows.setdefault((sparsity, kind), {})[run["seed"]] = row
    return rows


def _sparsities(rows):
    yield (
        "| sparsity | seeds | float32 | int8, post-training | int8, QAT "
        "| QAT minus float32 | QAT minus post-training | QAT weights, post-training |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for sparsity, kind in rows:
        if kind != "float32":
            continue
        floats, after, during, same = _of_common_seeds(
            rows.get((sparsity, kind), {})
            for kind in (
                "float32",
                "int8 after training",
                "int8",
                "its weights, int8 after training",
            )
        )
        cells = [_accuracy(floats), _accuracy(after), _accuracy(during)]
        cells += [_difference(during, floats), _difference(during, after)]
        cells.append(_accuracy(same))
        yield f"| {sparsity} | {len(during)} | {' | '.join(cells)} |"


def _files(rows):
    yield (
        "| dense | seeds | accuracy | NLL | bytes | gzip bytes | operations "
        "| in float |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for kind, name in KINDS.items():
        if found := rows.get(("dense", kind)):
            cells = f"{_accuracy(found)} | {_mean(found, 'nll', '.3f')}"
            yield f"| {name} | {len(found)} | {cells} | {_file_cells(found)}"


def _neighbour(rows):
    yield (
        "| dense | accuracy | bytes | gzip bytes | operations | in float "
        "| outputs equal to Keras |"
    )
    yield "|---|---|---|---|---|---|---|"
    names = {"int8": "QuantizationAwareTraining", "tfmot": "tfmot, tf_keras"}
    both = _of_common_seeds(rows.get(("dense", kind), {}) for kind in names)
    for name, found in zip(names.values(), both, strict=True):
        if found:
            cells = f"{_file_cells(found)} {_mean(found, 'equal', '.2%')} |"
            yield f"| {name} | {_accuracy(found)} | {cells}"
    ours, theirs = both
    yield f"| difference | {_difference(ours, theirs)} | | | | | |"


def _zeros(rows):
    yield (
        "| sparsity | kernel weights | masked | zero in the file "
        "| kernels with the expected zeros |"
    )
    yield "|---|---|---|---|---|"
    for (sparsity, kind), found in rows.items():
        if kind == "int8":
            counts = (
                _mean(found, name, ",.0f")
                for name in ("n_weights", "n_masked", "n_zeros")
            )
            exact, all_ = (
                sum(row[name] for row in found.values())
                for name in ("kernels_as_rounded", "kernels")
            )
            yield f"| {sparsity} | {' | '.join(counts)} | {exact} of {all_} |"


def _of_common_seeds(kinds):
    """Leave out the seeds that one of the rows to compare does not have."""
    kinds = list(kinds)
    seeds = set.intersection(*(set(found) for found in kinds))
    return [{seed: found[seed] for seed in seeds} for found in kinds]


def _file_cells(found):
    names = ("bytes", "gzip_bytes", "operations", "float")
    return " | ".join(_mean(found, name, ",.0f") for name in names) + " |"


def _mean(found, name, form):
    return f"{np.mean([row[name] for row in found.values()]):{form}}"


def _accuracy(found):
    return _spread([100 * row["accuracy"] for row in found.values()], ".2f")


def _difference(found, other):
    seeds = found.keys() & other.keys()
    points = [100 * (found[s]["accuracy"] - other[s]["accuracy"]) for s in seeds]
    return _spread(points, "+.2f")


def _spread(values, form):
    if not values:
        return ""
    spread = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    return f"{np.mean(values):{form}}{spread}"
