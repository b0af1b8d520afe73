"""Pools of learners: processes that are killed, and ten thousand learners.

    python -m benchmarks.learners.pools

Twenty rounds of three runs that train into one pool at once; each is killed up to four
times at random and resumes. Eight processes that add two hundred learners. The time and
memory of pools of up to 10,000 learners, each in new processes. About ten
minutes on two cores.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

from benchmarks.learners import workers
from benchmarks.lib.results import RESULTS_FOLDER
from benchmarks.lib.sections import machine, run_section
from keras_micronets import LearnerPool
from keras_micronets.export import export_tflite

RESULTS = RESULTS_FOLDER / "learner_pools.json"
SIZES = (1_000, 5_000, 10_000)
N_ROUNDS, N_ADDED = 20, 200


def measure(settings: dict) -> dict:
    """Open a pool twice, list, filter and add; the first time it has no index."""
    path, times = Path(settings["path"]), {}
    before = _memory()

    def timed(name, function):
        start = time.perf_counter()
        result = function()
        times[name] = round(time.perf_counter() - start, 4)
        return result

    if settings["section"] == "index":
        timed("first_seconds", lambda: LearnerPool(path))
        return times
    pool = timed("open_seconds", lambda: LearnerPool(path))
    times["open_mb"] = round(_memory() - before, 1)
    timed("list_seconds", lambda: [(x.name, x.run, x.n_bytes) for x in pool])
    timed(
        "filter_seconds",
        lambda: [x for x in pool if x.metrics["val_accuracy"] > 0.5 and x.epoch == 10],
    )
    timed("refresh_seconds", pool.refresh)
    timed(
        "add_seconds",
        lambda: [pool.add_tflite(settings["file"]) for _ in range(N_ADDED)],
    )
    return {"learners": len(pool) - N_ADDED, **times}


def _memory():
    """Return the resident memory of this process, in MB."""
    status = Path("/proc/self/status").read_text()
    (line,) = (x for x in status.splitlines() if x.startswith("VmRSS"))
    return int(line.split()[1]) / 1000


def sizes(folder: Path) -> list[dict]:
    """Measure pools of several sizes."""
    file, rows = folder / "tiny.tflite", []
    export_tflite(workers.model(), file, quantization=None)
    for n_learners in SIZES:
        path = folder / str(n_learners)
        workers.fill(path, file, n_learners)
        row = {}
        for section in ("index", "open"):
            settings = {"path": str(path), "file": str(file), "section": section}
            out = folder / "out.json"
            row |= run_section("benchmarks.learners.pools", section, settings, out)
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def table(results: dict) -> str:
    """Return the tables of the results, in Markdown."""
    return "\n\n".join([_size_table(results), _fault_table(results)])


def _size_table(results):
    lines = [
        "| learners | open, s | MB | without an index, s | list, s | filter, s | "
        "add 200, s |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['learners']:,} | {row['open_seconds']:.2f} | {row['open_mb']:.0f} | "
        f"{row['first_seconds']:.1f} | {row['list_seconds']:.3f} | "
        f"{row['filter_seconds']:.3f} | {row['add_seconds']:.1f} |"
        for row in results["sizes"]
    ]
    return "\n".join(lines)


def _fault_table(results):
    rounds, at_once = results["rounds"], results["at_once"]
    whole = sum(row["exactly_once"] for row in rounds)
    totals = [sum(row[key] for row in rounds) for key in ("learners", "expected")]
    return "\n".join(
        [
            "| processes | kills | learners | expected | damaged |",
            "|---|---|---|---|---|",
            f"| 3 runs at once, {whole} of {len(rounds)} rounds without a fault | "
            f"{sum(row['kills'] for row in rounds)} | {totals[0]:,} | {totals[1]:,} | "
            f"{sum(row['damaged'] for row in rounds)} |",
            f"| {at_once['processes']} that add at once | 0 | {at_once['learners']} | "
            f"{at_once['expected']} | {at_once['damaged']} |",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("section", nargs="?", choices=["index", "open"])
    parser.add_argument("settings", nargs="?", type=json.loads)
    parser.add_argument("written", nargs="?", type=Path)
    parser.add_argument("--rounds", type=int, default=N_ROUNDS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.section:
        arguments.written.write_text(json.dumps(measure(arguments.settings)))
        return
    results = {"machine": machine(), "rounds": []}
    with tempfile.TemporaryDirectory() as folder:
        results["sizes"] = sizes(Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        results["at_once"] = workers.add_at_once(Path(folder))
    print(json.dumps(results["at_once"]), flush=True)
    for seed in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            results["rounds"].append(workers.kill_round(Path(folder), seed))
        print(json.dumps(results["rounds"][-1]), flush=True)
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
