"""Cost of the callbacks: time per step, memory per weight, predictions of a pool.

    python -m benchmarks.callbacks.overhead
    python -m benchmarks.callbacks.overhead --only weights qat --samples 9 --again

Each section runs in a separate process. Timed variants are interleaved: one `fit` of
`--steps` batches of 128 per turn, each compiled and fitted before. A ratio is the
median over the turns of a variant's time divided by that of plain `fit` in the same
turn, so a machine that slows down affects both. Weights and masks are reset before
each turn. Processor time is less affected by other programs and is reported beside
wall-clock time. A section in the results file is not run again unless `--again` is
given.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from statistics import median

from benchmarks.lib.results import RESULTS_FOLDER
from benchmarks.lib.sections import machine, run_section

SECTIONS = {
    "weights": ("ResNet-8, TensorFlow", "tensorflow"),
    "qat": ("ResNet-8, TensorFlow", "tensorflow"),
    "tfmot": ("ResNet-8, tf_keras with tfmot", "tensorflow"),
    "large": ("25 M parameters, TensorFlow", "tensorflow"),
    "jit": ("ResNet-8, TensorFlow, jit_compile", "tensorflow"),
    "jax": ("ResNet-8, JAX", "jax"),
    "jax_small": ("ResNet-8, JAX", "jax"),
    "torch": ("ResNet-8, PyTorch", "torch"),
    "torch_small": ("ResNet-8, PyTorch", "torch"),
    "memory": ("25 M parameters, memory", "tensorflow"),
    "pool": ("Pool of ResNet-8", "tensorflow"),
}
# A quarter of the pixels: they show what does not depend on the size of the images.
SMALL_IMAGES = ("jit", "jax_small", "torch_small")
RESULTS = RESULTS_FOLDER / "overhead.json"


def main():
    arguments = parse()
    results = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    for name in arguments.only:
        if name in results and not arguments.again:
            continue
        title, backend = SECTIONS[name]
        print(f"\n{name}: {title}", flush=True)
        settings = {
            "samples": arguments.samples,
            "steps": arguments.steps,
            "size": 16 if name in SMALL_IMAGES else 32,
        }
        measured = run(name, backend, settings)
        results[name] = {"title": title, "machine": machine(), **settings, **measured}
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    print(f"\n{table(results)}")


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--samples", type=int, default=5, help="turns a variant")
    parser.add_argument("--steps", type=int, default=100, help="batches a turn")
    parser.add_argument("--again", action="store_true", help="measure again")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def run(section, backend, settings):
    """Run one function of `callbacks/overhead_sections.py` in a process of its own."""
    quiet = os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3")
    with tempfile.TemporaryDirectory() as folder:
        return run_section(
            "benchmarks.callbacks.overhead_sections",
            section,
            settings,
            Path(folder, "out.json"),
            KERAS_BACKEND=backend,
            TF_CPP_MIN_LOG_LEVEL=quiet,
        )


def table(results):
    """Return all sections that were measured as Markdown tables."""
    timed = [x for x in results.values() if "seconds" in x]
    others = [x["rows"] for x in results.values() if "rows" in x]
    lines = []
    if timed:
        lines += [
            "| `fit`, batches of 128 | images | ms per step | relative to plain `fit` "
            "| relative processor time |",
            "|---|---|---|---|---|",
        ]
        lines += [line for section in timed for line in _timed_lines(section)]
    if others:
        lines += ["", "| | |", "|---|---|"]
        lines += [f"| {name} | {value} |" for rows in others for name, value in rows]
    return "\n".join(lines)


def _timed_lines(section):
    seconds, processor = section["seconds"], section["processor_seconds"]
    plain = next(iter(seconds))
    for name in seconds:
        step = 1000 * median(seconds[name]) / section["steps"]
        of_plain, by_processor = (
            f"{ratio(times, name, plain):.3f}" for times in (seconds, processor)
        )
        yield (
            f"| {section['title']}: {name} | {section['size']} x {section['size']} "
            f"| {step:.0f} | {of_plain} | {by_processor} |"
        )


def ratio(times, name, plain):
    """Return the median over the turns of a variant's time by the plain one's."""
    pairs = zip(times[name], times[plain], strict=True)
    return median(time / other for time, other in pairs)


if __name__ == "__main__":
    main()
