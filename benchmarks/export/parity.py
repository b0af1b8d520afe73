"""Agreement of int8 files with the predictions of Keras.

    python -m benchmarks.export.parity

The four networks of MLPerf Tiny, a network for sensors, twelve small ones of other
architectures, and ten of `keras.applications`, with random weights and batch
normalisation as if trained: gamma of random size, one in five negative, statistics near
those of the data. Quantisers observe 64 inputs; then 200 others go through the model in
Keras and through the int8 file in LiteRT, and the outputs are compared in steps of the
file's outputs, of which the one that agrees least counts. If they
differ, a second file returns every rounded tensor to find the first layer that
differs. A network in the results file is not run again unless `--again` is given.
"""

import argparse
import json
import tempfile
import time
import warnings
from pathlib import Path

import keras
import numpy as np

import keras_micronets as kmn
from benchmarks.export.parity_nets import NETS
from benchmarks.lib.results import RESULTS_FOLDER, commit
from keras_micronets import layers
from keras_micronets.export.tflite_model import TFLiteModel

RESULTS = RESULTS_FOLDER / "parity.json"
N_LEARNED_FROM, N_COMPARED, N_LOOKED_INTO = 64, 200, 8


def main():
    arguments = parse()
    results = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    for name in arguments.nets:
        if name in results and not arguments.again:
            continue
        results[name] = {"commit": commit(), **run(NETS[name])}
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")
        print(f"{name}: {results[name]}", flush=True)
    print(table(results))


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--again", action="store_true", help="measure again")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def run(make):
    """Build a net, export it, and compare the file with it."""
    start = time.perf_counter()
    keras.utils.set_random_seed(0)
    model = make()
    randomize(model, inputs(model, N_LEARNED_FROM, seed=1))
    floating = learn_ranges(model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        report = export(model, path)
        row = compare(model, TFLiteModel(path.read_bytes(), model.name))
        if row["largest"] > 0:
            row["begins"] = first_difference(model, Path(folder) / "all.tflite")
    return {
        **row,
        "announced": len(floating),
        "float": sum(report.float_operations.values()),
        "operations": sum(report.operations.values()),
        "types": dict(report.operations),
        "parameters": layers.strip(model).count_params(),
        "bytes": report.n_bytes,
        "seconds": round(time.perf_counter() - start, 1),
    }


def inputs(model, n, seed):
    """Return inputs that differ: each has a slow wave, an offset and some noise."""
    rng = np.random.default_rng(seed)
    rescales = any(isinstance(layer, keras.layers.Rescaling) for layer in model.layers)
    arrays = [_input(tensor, n, rng, rescales) for tensor in model.inputs]
    return arrays[0] if len(arrays) == 1 else arrays


def _input(tensor, n, rng, rescales):
    shape = tensor.shape[1:]
    if tensor.dtype == "int32":  # words
        return rng.integers(0, 50, (n, *shape), "int32")
    one, each = (n, *[1] * len(shape)), (n, *[1] * (len(shape) - 1), shape[-1])
    x = rng.normal(0, 0.3, (n, *shape)) + rng.normal(size=one)
    for axis in range(max(len(shape) - 1, 1)):
        places = np.linspace(0, 1, shape[axis])
        places = places.reshape([-1 if i == axis else 1 for i in range(len(shape))])
        wave = rng.uniform(0.3, 3, one) * places + rng.uniform(size=one)
        height = rng.normal(1, 0.5, each if len(shape) > 1 else one)
        x += height * np.sin(2 * np.pi * wave)
    x = 128 + 50 * x if rescales else x
    if tensor.dtype == "uint8":
        return np.clip(x, 0, 255).astype("uint8")
    return x.astype("float32")


def randomize(model, x):
    """Give batch normalisation weights and statistics as if it had been trained."""
    rng = np.random.default_rng(0)
    norms = [
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    for layer in norms:
        layer.beta.assign(rng.normal(0, 0.3, layer.beta.shape))
        if layer.scale:
            sign = np.where(rng.random(layer.gamma.shape) < 0.2, -1, 1)
            layer.gamma.assign(rng.uniform(0.5, 1.5, layer.gamma.shape) * sign)
        layer.momentum = 0.0  # statistics are those of the next batch
    model(x, training=True)
    for layer in norms:
        mean, variance = layer.moving_mean, layer.moving_variance
        mean.assign(mean + 0.1 * rng.normal(size=mean.shape) * variance**0.5)
        variance.assign(variance * rng.uniform(0.7, 1.4, variance.shape))
        layer.trainable = False


def learn_ranges(model):
    """Place the quantisers and show them inputs; return what stays in float."""
    preparation = layers.prepare(model, quantize=True)
    layers.set_quantizers(model, True)
    model(inputs(model, N_LEARNED_FROM, seed=2), training=True)
    return preparation.floating


def export(model, path, n=N_COMPARED):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # differences are what this is about
        data = inputs(model, n, seed=3)
        data = tuple(data) if isinstance(data, list) else data
        return kmn.export_tflite(model, path, representative_data=data)


def compare(model, file):
    """Compare the outputs of all inputs, in steps; the worst output counts."""
    x = inputs(model, N_COMPARED, seed=3)
    raws = file.run(x if isinstance(x, list) else [x])
    predicted = keras.tree.flatten(model.predict(x, batch_size=50, verbose=0))
    rows = [
        _compare_output(info, raw, values)
        for info, raw, values in zip(file.outputs, raws, predicted, strict=True)
    ]
    return {"input": file.inputs[0].dtype, **min(rows, key=lambda row: row["equal"])}


def _compare_output(info, raw, predicted):
    rounded = info.quantize(predicted).astype("float64")
    difference = np.abs(raw.astype("float64") - rounded)
    if not info.scale:  # a float output has no steps: count its float32 roundings
        difference[difference <= 1e-5 * np.abs(rounded).max()] = 0
    return {
        "output": info.dtype,
        "largest": float(difference.max()),
        "equal": float(np.mean(difference == 0)),
        "within_one": float(np.mean(difference <= 1)),
        "top1": float(np.mean(raw.argmax(-1) == rounded.argmax(-1))),
    }


def first_difference(model, path):
    """Return the first layer whose rounded output the file has otherwise."""
    rounding = [
        layer
        for layer in model.layers
        if getattr(getattr(layer, "quantizers", None), "output", False)
        and hasattr(layer, "output")  # a shared layer has several
    ]
    if not rounding:
        return None
    everything = keras.Model(model.inputs, [layer.output for layer in rounding])
    report = export(everything, path, n=N_LOOKED_INTO)
    for layer, parity in zip(rounding, report.outputs, strict=True):
        if parity.largest_difference > 0:
            return f"{layer.name} ({type(layer).__name__})"
    return None


def table(results):
    """Return the results as a table for the documentation."""
    lines = [
        "| net | operations | in float | equal | within one step | largest | top 1 "
        "| first difference |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in (name for name in NETS if name in results):
        row = results[name]
        lines.append(
            f"| {name} | {row['operations']} | {row['float']} | {row['equal']:.2%} | "
            f"{row['within_one']:.2%} | {row['largest']:g} | {row['top1']:.1%} | "
            f"{row.get('begins') or ''} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
