"""The quickstart on handwritten digits, for several seeds.

    python -m benchmarks.quickstart

Each seed has its own split of the images and its own initial weights, shared by
baseline and learners. Besides the quickstart's table, the int8 file of every learner
is compared with its simulation in Keras on all test images, output by output. Writes
every run and the means.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from benchmarks.lib.results import DOCS_FOLDER, RESULTS_FOLDER
from keras_micronets.edge.member import Member, quantize
from keras_micronets.export import export_tflite
from keras_micronets.learners import LearnerPool
from keras_micronets.quickstart import load_problem, run_quickstart

RESULTS = RESULTS_FOLDER / "quickstart.json"
PICTURE = DOCS_FOLDER / "learners.png"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    runs = []
    for seed in range(arguments.seeds):
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            problem = load_problem(seed=seed)
            run = run_quickstart(problem, folder, seed=seed).to_json()
            del run["bundle"]
            run["seconds"] = round(time.perf_counter() - start, 1)
            if seed == 0:
                shutil.copy(Path(folder) / "learners.png", PICTURE)
            pool = LearnerPool(Path(folder) / "pool")
            run["parity"] = [parity(x, problem.test[0], folder) for x in pool]
        runs.append(run)
        results = {"runs": runs, "summary": summarize(runs)}
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results["summary"], indent=1))
    print(table(results))


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
    """Return means over the seeds, and the ratios of bytes."""
    baseline = [run["scores"][0] for run in runs]
    members = [run["scores"][1:-2] for run in runs]
    before, after = ([run["scores"][i] for run in runs] for i in (-2, -1))
    differences = [
        a["accuracy"] - b["accuracy"] for a, b in zip(after, baseline, strict=True)
    ]
    rows = {
        "baseline, float32": baseline,
        "one member, int8 (mean)": [member for row in members for member in row],
        "ensemble before int8": before,
        "ensemble, int8": after,
    }
    return {
        "seeds": len(runs),
        "rows": {name: mean(scores) for name, scores in rows.items()},
        "ensemble int8 - baseline, accuracy": {
            "mean": float(np.mean(differences)),
            "standard deviation": float(np.std(differences, ddof=1))
            if len(runs) > 1
            else None,
        },
        "largest member, gzip / baseline's file": max(
            member["gzip_bytes"] / run["scores"][0]["n_bytes"]
            for run, row in zip(runs, members, strict=True)
            for member in row
        ),
        "largest zip / baseline's file": max(
            run["zip_bytes"] / run["scores"][0]["n_bytes"] for run in runs
        ),
        "parity, all learners and test images": {
            "files": sum(len(run["parity"]) for run in runs),
            **{
                f"{key}": max(p[key] for run in runs for p in run["parity"])
                for key in (
                    "largest_difference_in_steps",
                    "share_of_outputs_that_differ",
                    "float_operations",
                )
            },
        },
        "longest run, seconds": max(run["seconds"] for run in runs),
    }


def table(results):
    """Return the means over the seeds as a Markdown table."""
    summary = results["summary"]
    lines = [
        f"| mean of {summary['seeds']} seeds | accuracy | NLL | ECE | `.tflite` bytes "
        "| gzip bytes | ms |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in summary["rows"].items():
        latency = f"{row['latency']:.3f}" if "latency" in row else ""
        lines.append(
            f"| {name} | {row['accuracy']:.2%} | {row['nll']:.3f} | {row['ece']:.3f} "
            f"| {row['n_bytes']:,.0f} | {row['gzip_bytes']:,.0f} | {latency} |"
        )
    return "\n".join(lines)


def mean(scores):
    keys = ("accuracy", "nll", "ece", "n_bytes", "gzip_bytes", "latency")
    values = {key: [s[key] for s in scores if s[key] is not None] for key in keys}
    return {key: float(np.mean(v)) for key, v in values.items() if v}


if __name__ == "__main__":
    main()
