"""The quickstart on noisy handwritten digits, for several seeds.

    python -m benchmarks.quickstart
    python -m benchmarks.quickstart --seeds 0 1 --out part.json   # and so on
    python -m benchmarks.quickstart --join part.json other.json

Each seed has its own split of the images, faults, and initial weights. Besides the
quickstart's table, the int8 file of every learner is compared with its simulation in
Keras on all test images, output by output. Writes every run and the means.
"""

import argparse
import json
import os
import resource
import shutil
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from benchmarks.lib.results import DOCS_FOLDER, RESULTS_FOLDER, half_interval
from keras_micronets.edge.member import Member, quantize
from keras_micronets.export import export_tflite
from keras_micronets.learners import LearnerPool
from keras_micronets.quickstart import load_problem, run_quickstart

RESULTS = RESULTS_FOLDER / "quickstart.json"
PICTURE = DOCS_FOLDER / "learners.png"
RECOMMENDED = "recommended row"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12, 13, 14])
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--join", type=Path, nargs="+", help="results files")
    arguments = parser.parse_args()
    runs = []
    if arguments.join:
        for path in arguments.join:
            runs += json.loads(path.read_text())["runs"]
        write(arguments.out, sorted(runs, key=lambda run: run["seed"]))
    else:
        for seed in arguments.seeds:
            runs.append(run_seed(seed))
            write(arguments.out, runs)
    results = json.loads(arguments.out.read_text())
    print(json.dumps(results["summary"], indent=1))
    print(table(results))


def write(path, runs):
    results = {"runs": runs, "summary": summarize(runs)}
    path.write_text(json.dumps(results, indent=1) + "\n")


def run_seed(seed):
    start = cpu_seconds()
    with tempfile.TemporaryDirectory() as folder:
        problem = load_problem(seed=seed)
        run = run_quickstart(problem, folder, seed=seed).to_json()
        del run["bundle"]
        run["cpu_seconds"] = round(cpu_seconds() - start, 1)
        if seed == 10:
            shutil.copy(Path(folder) / "learners.png", PICTURE)
        pool = LearnerPool(Path(folder) / "pool")
        run["parity"] = [parity(x, problem.test[0], folder) for x in pool]
    return run


def cpu_seconds():
    """Return the processor time of this process and of those that it started."""
    both = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(used.ru_utime + used.ru_stime for used in both)


def parity(learner, x, folder):
    """Compare a learner's int8 file with its Keras simulation on all of `x`."""
    path = Path(folder) / "parity.tflite"
    model = learner.load()
    report = export_tflite(model, path)
    member = Member(path)
    simulated = model.predict(x, verbose=0)
    expected = quantize(simulated, member.output_dtype, *member.output_quantization)
    steps = np.abs(member.predict_raw(x).astype(int) - expected.astype(int))
    return {
        "learner": learner.name,
        "largest_difference_in_steps": int(steps.max()),
        "share_of_outputs_that_differ": float(np.mean(steps > 0)),
        "float_operations": sum(report.float_operations.values()),
        "n_weights": report.n_weights,
        "n_masked": report.n_masked,
        "n_zeros_in_file": report.n_zeros,
    }


def summarize(runs):
    """Return means over the seeds, and differences from the best control."""
    by_name = {}
    for run in runs:
        for row in run["scores"]:
            by_name.setdefault(row["name"], []).append(row)
    by_name[RECOMMENDED] = [
        next(row for row in run["scores"] if row["name"] == run["recommended"])
        for run in runs
    ]
    rows = {name: mean(scores) for name, scores in by_name.items()}
    controls = [name for name, scores in by_name.items() if is_control(scores)]
    best = max(controls, key=lambda name: rows[name]["accuracy"])
    return {
        "seeds": len(runs),
        "rows": rows,
        "recommended": [run["recommended"] for run in runs],
        "best control": best,
        "accuracy less that of the best control": {
            name: interval(
                [
                    row["accuracy"] - control["accuracy"]
                    for row, control in zip(scores, by_name[best], strict=True)
                ]
            )
            for name, scores in by_name.items()
            if name == RECOMMENDED or not is_control(scores)
        },
        "parity, all learners and test images": {
            "files": sum(len(run["parity"]) for run in runs),
            **{
                key: max(p[key] for run in runs for p in run["parity"])
                for key in (
                    "largest_difference_in_steps",
                    "share_of_outputs_that_differ",
                    "float_operations",
                )
            },
        },
        "processor seconds, longest run": max(run["cpu_seconds"] for run in runs),
    }


def is_control(scores):
    return all(row["role"] == "control" for row in scores)


def interval(differences):
    """Return the mean of paired differences and its 95 % interval (Student's t)."""
    center = float(np.mean(differences))
    half = half_interval(differences) if len(differences) > 1 else 0.0
    return {"mean": center, "low": center - half, "high": center + half}


def mean(scores):
    keys = [key for key, value in scores[0].items() if not isinstance(value, str)]
    return {key: float(np.mean([row[key] for row in scores])) for key in keys}


def table(results):
    """Return the means over the seeds as a Markdown table."""
    summary = results["summary"]
    gains = summary["accuracy less that of the best control"]
    lines = [
        f"| mean of {summary['seeds']} seeds | cost | accuracy | gain (95 %) | NLL "
        "| scaled | bytes | ms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in summary["rows"].items():
        gain = ""
        if name in gains:
            mean, low, high = (100 * gains[name][k] for k in ("mean", "low", "high"))
            gain = f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"
        lines.append(
            f"| {name} | {row['cost']:.1f} | {row['accuracy']:.2%} | {gain} "
            f"| {row['nll']:.3f} | {row['calibrated_nll']:.3f} | {row['n_bytes']:,.0f} "
            f"| {row['latency']:.3f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
