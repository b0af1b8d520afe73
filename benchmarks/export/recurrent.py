"""Accuracy of int8 LSTM and GRU files: QAT against post-training quantisation.

    python -m benchmarks.export.recurrent

Windows of vibration (`lib/vibration.py`) are cut into 32 steps of 16 readings. For each
seed a network trains for 20 epochs in float; of that network, a file is made by
post-training quantisation, and another after 5 more epochs with
`QuantizationAwareTraining`. "float" trains these 5 epochs without it, so both see the
data equally often. Accuracy is that of the files in LiteRT on 2,000 other windows.
"""

import argparse
import tempfile
import time
import warnings
from pathlib import Path

import keras
import numpy as np
from keras import layers

import keras_micronets as kmn
from benchmarks.lib import vibration
from benchmarks.lib.results import RESULTS_FOLDER, ResultsFile, commit, half_interval
from keras_micronets.export.tflite_model import TFLiteModel

EPOCHS, MORE_EPOCHS, STEPS, UNITS = 20, 5, 32, 24
N_TRAIN, N_TEST = 3000, 2000


def main():
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--out", type=Path, default=RESULTS_FOLDER / "recurrent.json")
    arguments = options.parse_args()
    preset = {"epochs": EPOCHS, "more_epochs": MORE_EPOCHS, "units": UNITS}
    file = ResultsFile(arguments.out, preset)
    for seed in arguments.seeds:
        for name in ("LSTM", "GRU"):
            about = {"layer": name, "seed": seed}
            if not file.has(about):
                file.add({**about, "commit": commit(), **run(name, seed)})
    print(table(file.runs))


def run(name, seed):
    """Train one network three ways; return accuracies and seconds per epoch."""
    x, y = vibration.make_vibration(N_TRAIN, seed=seed)
    test = vibration.make_vibration(N_TEST, seed=10_000 + seed)
    keras.utils.set_random_seed(seed)
    model = network(name)
    fit(model, x, y, EPOCHS)
    plain, unrolled = network(name), network(name, unroll=True)
    plain.set_weights(model.get_weights())
    float_seconds = fit(plain, x, y, MORE_EPOCHS)
    unrolled.set_weights(plain.get_weights())
    quantised = kmn.callbacks.QuantizationAwareTraining()
    qat_seconds = fit(model, x, y, MORE_EPOCHS, callbacks=[quantised])
    return {
        "float": float(plain.evaluate(*test, verbose=0)[1]),
        "post-training": file_accuracy(unrolled, x[:500], *test),
        "QAT": file_accuracy(model, x[:500], *test),
        "float_seconds": float_seconds,
        "qat_seconds": qat_seconds,
    }


def network(name, **arguments):
    inputs = keras.Input((vibration.LENGTH, 2))
    steps = layers.Reshape((STEPS, -1))(inputs)
    x = getattr(layers, name)(UNITS, **arguments)(steps)
    outputs = layers.Dense(len(vibration.CLASSES))(x)
    return compiled(keras.Model(inputs, outputs, name=name.lower()))


def compiled(model):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
    return model


def fit(model, x, y, epochs, callbacks=()):
    """Train, and return the seconds of the last epoch."""
    times = []
    clock = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: times.append(-time.perf_counter()),
        on_epoch_end=lambda epoch, logs: times.append(time.perf_counter()),
    )
    callbacks = [*callbacks, clock]
    model.fit(x, y, batch_size=64, epochs=epochs, verbose=0, callbacks=callbacks)
    return round(times[-1] + times[-2], 2)


def file_accuracy(model, data, x, y):
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # how far files differ is what is measured
        path = Path(folder) / "model.tflite"
        kmn.export_tflite(model, path, representative_data=data)
        outputs = TFLiteModel(path.read_bytes(), model.name).run([x])[0]
    return float(np.mean(outputs.argmax(-1) == y))


def table(runs):
    """Return the results as a table for the documentation."""
    columns = ("float", "post-training", "QAT")
    lines = ["| layer | float | post-training | QAT |", "|---|---|---|---|"]
    for name in ("LSTM", "GRU"):
        rows = [run for run in runs if run["layer"] == name]
        cells = [[100 * row[column] for row in rows] for column in columns]
        shown = (f"{np.mean(x):.1f} ± {half_interval(x):.1f}" for x in cells)
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
