"""Sections of `device/edge.py`, run as `python -m benchmarks.device.edge_sections`.

Large packages are imported where they are used: the peak memory of a process includes
that of the process that started it.
"""

import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

MEMBERS = 4
CALLS = 20
TURNS = 25
BATCH = 64
SPLITS = 20
ENSEMBLES = (2, 4, 8)
TOLERANCES = (0.0, 0.001)
POOLS = ("cifar10 cycles", "cifar10 mixed", "cifar10 prune2edge")


def make(settings):
    """Write the bundles and an image."""
    import keras
    import nets
    import numpy as np

    import keras_micronets as kmn
    from keras_micronets.export import BundleMember, write_bundle

    folder = Path(settings["bundles"])
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (200, 32, 32, 3), "uint8")
    x = (pixels.astype("float32") - 127.5) / 64
    members = []
    for seed in range(MEMBERS):
        keras.utils.set_random_seed(seed)
        path = folder / f"{seed}.tflite"
        kmn.export_tflite(
            nets.resnet8(), path, quantization="int8", representative_data=x
        )
        members.append(BundleMember(f"resnet8-{seed}", path, from_logits=True))
    how = {"preprocessing": {"mean": 127.5, "scale": 64.0}}
    write_bundle(folder / "bundle", members, **how)
    write_bundle(folder / "single", members[:1], **how)
    np.save(folder / "one.npy", pixels[:1])
    np.save(folder / "many.npy", pixels[:BATCH])
    return {}


def start(settings):
    """Time the first answer of a process."""
    folder = Path(settings["bundles"])
    command = [sys.executable, folder / "bundle", "predict", folder / "one.npy"]
    _first_answer(command)  # reads the files into the system's cache
    rounds = [_first_answer(command) for _ in range(settings["rounds"])]
    seconds, megabytes = zip(*rounds, strict=True)
    return {"members": MEMBERS, "seconds": seconds, "megabytes": megabytes}


def overhead(settings):
    """Time one member and one image, by the runner and by LiteRT alone."""
    import numpy as np

    from keras_micronets.edge import EnsembleRunner

    folder = Path(settings["bundles"])
    x = np.load(folder / "one.npy")
    with EnsembleRunner(folder / "single") as runner:
        bare, direct = _by_hand(folder / "0.tflite", x)
        np.testing.assert_allclose(direct(), runner.predict(x), atol=1e-6)
        tasks = {
            "bare": bare,
            "direct": direct,
            "runner": lambda: runner.predict(x),
        }
        return {"milliseconds": _rounds(tasks, settings["rounds"], TURNS)}


def threads(settings):
    """Time all members on one thread and on two."""
    import numpy as np

    from keras_micronets.edge import EnsembleRunner

    folder = Path(settings["bundles"])
    found = {}
    with (
        EnsembleRunner(folder / "bundle", num_threads=1, warm_up=True) as one,
        EnsembleRunner(folder / "bundle", num_threads=2, warm_up=True) as two,
    ):
        for name, turns in (("one", TURNS), ("many", 1)):
            x = np.load(folder / f"{name}.npy")
            np.testing.assert_array_equal(one.predict(x), two.predict(x))
            tasks = {
                "1 thread": lambda x=x: one.predict(x),
                "2 threads": lambda x=x: two.predict(x),
            }
            rounds = _rounds(tasks, settings["rounds"], turns)
            found[name] = {"samples": len(x), "milliseconds": rounds}
    return found


def early_exit(settings):
    """Count what early exits save, and what they cost, on samples not seen before."""
    rows = []
    for pool in POOLS:
        p, y = _pool(Path(settings["pools"]) / f"{pool}.npz")
        for n_members in ENSEMBLES:
            for tolerance in TOLERANCES:
                about = {"pool": pool, "members": n_members, "tolerance": tolerance}
                rows.append(about | _splits(p, y, n_members, tolerance))
                print(rows[-1], flush=True)
    return {"splits": SPLITS, "rows": rows}


def _first_answer(command):
    began = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    answer = process.stdout.readline()
    seconds = time.perf_counter() - began
    process.stdout.close()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = status
    if status or not answer.startswith(b"0: "):
        raise RuntimeError(f"expected an answer, received {answer!r}")
    return round(seconds, 3), round(usage.ru_maxrss * 1024 / 1e6, 1)


def _by_hand(path, x):
    """Return LiteRT's calls alone, and with what an application has to do besides."""
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    taken = interpreter.get_input_details()[0]
    given = interpreter.get_output_details()[0]
    (scale, zero), (out_scale, out_zero) = taken["quantization"], given["quantization"]

    def ready():
        real = (x.astype("float32") - np.float32(127.5)) / np.float32(64)
        steps = np.rint(real / np.float32(scale)) + zero
        return np.clip(steps, -128, 127).astype("int8")

    def invoke(steps):
        interpreter.set_tensor(taken["index"], steps)
        interpreter.invoke()
        return interpreter.get_tensor(given["index"])

    def direct():
        raw = invoke(ready()).astype("float32")
        logits = (raw - out_zero) * np.float32(out_scale)
        exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return exponentials / exponentials.sum(axis=-1, keepdims=True)

    steps = ready()
    return lambda: invoke(steps), direct


def _rounds(tasks, rounds, turns):
    """Return the milliseconds of each task in each round, medians of its turns.

    A turn is some calls on end, as in an application, which does nothing else.
    """
    from keras_micronets.edge.bench import interleaved_medians

    repeated = [partial(_calls, task) for task in tasks.values()]
    found = [interleaved_medians(repeated, repeats=turns) for _ in range(rounds)]
    columns = zip(*found, strict=True)
    return {
        name: [round(ms / CALLS, 4) for ms in column]
        for name, column in zip(tasks, columns, strict=True)
    }


def _calls(task):
    for _ in range(CALLS):
        task()


def _pool(path):
    import numpy as np

    with np.load(path) as file:
        return file["probabilities"].astype("float32"), file["y"]


def _splits(p, y, n_members, tolerance):
    import numpy as np

    rows = []
    for seed in range(SPLITS):
        halves = np.array_split(np.random.default_rng(seed).permutation(len(y)), 2)
        rows.append(_split(p, y, *halves, n_members, tolerance))
    saved, lost, kept = (
        np.round(column, 5).tolist() for column in zip(*rows, strict=True)
    )
    return {"saved": saved, "lost": lost, "kept": kept}


def _split(p, y, chosen_on, scored_on, n_members, tolerance):
    """Return the share of calls saved, the accuracy lost, and the members kept."""
    from keras_micronets import selection
    from keras_micronets.edge.early_exit import run_early_exit

    chosen = selection.greedy(p[:, chosen_on], y[chosen_on], n_members)
    ours = p[chosen.indices]
    how = {"rule": "weights", "weights": chosen.weights}
    early = selection.choose_early_exit(
        ours[:, chosen_on],
        y[chosen_on],
        combination="weights",
        weights=chosen.weights,
        tolerance=tolerance,
    )
    ours, y = ours[:, scored_on], y[scored_on]
    answers, asked = run_early_exit(
        lambda place, rows: ours[place, rows], len(y), early, **how
    )
    whole = selection.combine(ours, **how)
    right = [(q.argmax(axis=-1) == y).mean() for q in (whole, answers)]
    return 1 - asked.mean() / len(ours), right[0] - right[1], len(ours)


SECTIONS = {f.__name__: f for f in (make, start, overhead, threads, early_exit)}

if __name__ == "__main__":
    section, settings, out = sys.argv[1:]
    found = SECTIONS[section](json.loads(settings))
    Path(out).write_text(json.dumps(found))
