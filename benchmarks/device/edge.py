"""Cost of the runner on the device: start, memory, time, and calls saved.

    python -m benchmarks.device.edge --folder pools
    python -m benchmarks.device.edge --folder pools --only overhead threads --again

The bundle has four int8 ResNet-8 of CIFAR-10's shape with random weights, which do
not affect the time. Each section runs in a separate process.

* "start": from the start of `python BUNDLE predict one.npy` to its answer, and the
  peak memory of the process.
* "overhead": one member and one image, through the runner; through LiteRT's
  interpreter in hand-written application code, from pixels to probabilities; and
  LiteRT's three calls alone, with a quantised input.
* "threads": four members on two threads, and on one.
* "early_exit": `--folder` holds the pools of `selection/pools.py`, predictions of
  real learners on CIFAR-10's test images. In each of 20 random halves
  `selection.greedy` selects members and `selection.choose_early_exit` the early exit;
  both are scored on the other half.

Compared tasks are interleaved; a ratio is the median over rounds. A section in the
results file is not run again unless `--again` is given.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

from benchmarks.device.edge_report import table
from benchmarks.lib.results import RESULTS_FOLDER
from benchmarks.lib.sections import machine, run_section

SECTIONS = ("start", "overhead", "threads", "early_exit")
RESULTS = RESULTS_FOLDER / "edge.json"


def main():
    arguments = parse()
    results = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    with tempfile.TemporaryDirectory() as temporary:
        settings = {
            "bundles": temporary,
            "pools": str(arguments.folder),
            "rounds": arguments.rounds,
        }
        run("make", settings)
        for name in arguments.only:
            if name in results and not arguments.again:
                continue
            about = machine()
            results[name] = {"machine": about, **run(name, settings)}
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="of the pools")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--rounds", type=int, default=9, help="at least five")
    parser.add_argument("--again", action="store_true", help="measure again")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def run(section, settings):
    """Run one function of `device/edge_sections.py` in a process of its own."""
    script = "benchmarks.device.edge_sections"
    quiet = os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3")
    out = Path(settings["bundles"], "out.json")
    return run_section(script, section, settings, out, TF_CPP_MIN_LOG_LEVEL=quiet)


if __name__ == "__main__":
    main()
