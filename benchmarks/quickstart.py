"""The quickstart on handwritten digits, for several seeds.

    python benchmarks/quickstart.py

Each seed splits the training images anew and starts from other weights; the test
images are always the same. Writes every run and the means.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from keras_micronets.quickstart import load_problem, run_quickstart

RESULTS = Path(__file__).parent / "results" / "quickstart.json"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    runs = []
    for seed in range(arguments.seeds):
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            result = run_quickstart(load_problem(seed=seed), folder, seed=seed)
        run = result.to_json()
        del run["bundle"]
        runs.append(run | {"seconds": round(time.perf_counter() - start, 1)})
        results = {"runs": runs, "summary": summarize(runs)}
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results["summary"], indent=1))


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
        "longest run, seconds": max(run["seconds"] for run in runs),
    }


def mean(scores):
    keys = ("accuracy", "nll", "ece", "n_bytes", "gzip_bytes", "latency")
    values = {key: [s[key] for s in scores if s[key] is not None] for key in keys}
    return {key: float(np.mean(v)) for key, v in values.items() if v}


if __name__ == "__main__":
    main()
