"""Results files, written row by row so that an interrupted run resumes."""

import argparse
import fcntl
import json
import subprocess
from pathlib import Path

import numpy as np
from scipy import stats

RESULTS_FOLDER = Path(__file__).parent.parent / "results"
DOCS_FOLDER = Path(__file__).parent.parent.parent / "docs"


# Labels of rows whose names in the results files are not standard terms.
LABELS = {
    "a chain": "sequential learners",
    "parent trained on": "parent trained longer",
    "parent trained on, float32": "parent trained longer, float32",
    "parent trained on, int8": "parent trained longer, int8",
    "one a cluster: cluster, then int8": "one per cluster: cluster, then int8",
    "one a cluster: int8, then cluster": "one per cluster: int8, then cluster",
    "whole network, pressed": "whole network, regularised",
    "uniform, pressed": "uniform, regularised",
    "group norms, hardly pushed": "group norms, weakly regularised",
    "found widths": "widths found by Taylor",
    "uniform, pressed, distilled": "uniform, regularised, distilled",
}


def row_label(name: str) -> str:
    """Return the label under which tables show a row of a results file."""
    return LABELS.get(name, name)


def commit() -> str:
    """Return the short hash of the checkout's commit."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def half_interval(values) -> float:
    """Return half the 95 % interval of a mean, by Student's t; NaN for one value."""
    n = len(values)
    if n < 2:
        return float("nan")
    return float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n))


class ResultsFile:
    """Holds `{"preset": ..., "runs": [...]}`.

    Args:
        path: The file, with what an earlier run wrote, or none.
        preset: Dictionary of the experiment's size; that of the file stays.
    """

    def __init__(self, path: Path, preset: dict):
        self.path = path
        self.results = json.loads(path.read_text()) if path.exists() else {}
        self.results.setdefault("preset", preset)
        self.runs = self.results.setdefault("runs", [])

    def has(self, about: dict) -> bool:
        """Return whether a row is there already."""
        return any(about.items() <= run.items() for run in self.runs)

    def add(self, run: dict) -> None:
        """Write a row, and print it; several processes may add to one file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            if text := file.read():
                self.runs[:] = json.loads(text)["runs"]
            self.runs.append(run)
            file.truncate(0)
            file.write(json.dumps(self.results, indent=1) + "\n")
        print(json.dumps(run), flush=True)


def parser(about: str, rows, out: Path) -> argparse.ArgumentParser:
    """Return what reads the options that such benchmarks on CIFAR-10 have.

    Args:
        about: The script's docstring, whose first line is shown.
        rows: Names of the rows.
        out: Where results go by default.
    """
    options = argparse.ArgumentParser(description=about.split("\n")[0])
    options.add_argument("--data", type=Path, help="an .npz of CIFAR-10")
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--rows", nargs="+", choices=rows, default=list(rows))
    options.add_argument("--out", type=Path, default=out)
    return options
