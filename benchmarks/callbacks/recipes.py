"""Recipes of `LearnerCycles` with their defaults, under four optimizers.

    python -m benchmarks.callbacks.recipes

Three small problems: clusters of points with an MLP, handwritten digits with a small
CNN, and windows of a synthetic sensor with a Conv1D net, each with 800 samples to train
and 800 to test. Each optimizer has Keras's default learning rate, SGD with momentum
0.9, and no recipe is given one. Baseline and recipes train for the same number of
epochs from the same initial weights, but for Prune2Edge, which begins with the trained
baseline and adds two epochs a learner.

The *parent* of a learner is the model that its recipe begins with: the baseline for
Prune2Edge, the model at the end of the warm-up for FreeTickets and Prune and Tune, and
the first learner for snapshots, which go on from it.
"""

import argparse
import tempfile
from functools import cache, partial
from itertools import product
from pathlib import Path

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_micronets as kmn
from benchmarks.lib.results import RESULTS_FOLDER, ResultsFile
from keras_micronets.callbacks import LearnerCycles

RESULTS = RESULTS_FOLDER / "recipes.json"
EPOCHS, N_LEARNERS, TUNING = 24, 3, 2
PRESET = {"epochs": EPOCHS, "learners": N_LEARNERS, "epochs per Prune2Edge learner": 2}

RECIPES = ("snapshot", "free_tickets", "prune_and_tune", "prune2edge")
OPTIMIZERS = {
    "Adam": keras.optimizers.Adam,
    "AdamW": keras.optimizers.AdamW,
    "RMSprop": keras.optimizers.RMSprop,
    "SGD": partial(keras.optimizers.SGD, momentum=0.9),
}


def points(seed):
    """Return twelve clusters of points in ten dimensions, two to a class."""
    centres = np.random.default_rng(0).normal(0, 1, (6, 2, 10))
    rng = np.random.default_rng((1, seed))
    y = rng.integers(0, 6, 1600)
    x = centres[y, rng.integers(0, 2, len(y))] + rng.normal(0, 0.7, (len(y), 10))
    return x, y


def digits(seed):
    """Return the handwritten digits of scikit-learn."""
    x, y = load_digits(return_X_y=True)
    return (x / 16).reshape(-1, 8, 8, 1), y


def sensor(seed):
    """Return windows of the vibration of a rotating machine in four states.

    In order; with an imbalance (first harmonic); with a loose part (second and third);
    with a worn bearing (bursts). Speed, phase, strength and noise vary.
    """
    rng = np.random.default_rng((2, seed))
    y = rng.integers(0, 4, 1600)
    time, phase = np.arange(64), rng.uniform(0, 2 * np.pi, (len(y), 1))
    turn = rng.uniform(0.2, 0.4, (len(y), 1)) * time + phase
    states = np.stack(
        [
            0.2 * np.sin(turn),
            np.sin(turn),
            np.sin(2 * turn) + np.sin(3 * turn),
            2.0 * (np.cos(turn) > 0.9) * np.sin(2.5 * time),
        ]
    )
    strength = rng.uniform(0.4, 1.0, (len(y), 1))
    x = strength * states[y, np.arange(len(y))] + rng.normal(0, 0.25, (len(y), 64))
    return x[..., None], y


def mlp():
    hidden = [keras.layers.Dense(64, activation="relu") for _ in range(2)]
    return [keras.Input((10,)), *hidden, keras.layers.Dense(6, activation="softmax")]


def cnn():
    return [
        keras.Input((8, 8, 1)),
        keras.layers.Conv2D(16, 3, use_bias=False),
        keras.layers.BatchNormalization(momentum=0.9),
        keras.layers.ReLU(),
        keras.layers.Conv2D(32, 3, strides=2, activation="relu"),
        keras.layers.Flatten(),
        keras.layers.Dense(10, activation="softmax"),
    ]


def conv1d():
    return [
        keras.Input((64, 1)),
        keras.layers.Conv1D(32, 7, strides=2, activation="relu"),
        keras.layers.Conv1D(48, 5, strides=2, activation="relu"),
        keras.layers.GlobalMaxPooling1D(),
        keras.layers.Dense(4, activation="softmax"),
    ]


PROBLEMS = {
    "points": (points, mlp),
    "digits": (digits, cnn),
    "sensor": (sensor, conv1d),
}


def recipe(name, pool, train, n_learners):
    """Return a recipe with its defaults."""
    options = {"data": train} if name == "free_tickets" else {}
    return getattr(LearnerCycles, name)(pool, n_learners, **options)


class Ends(kmn.LearnerPool):
    """A pool that keeps the epochs of its learners only, and so costs no time."""

    def __init__(self, path):
        super().__init__(path)
        self.ends = []

    def add(self, model, **metadata):
        self.ends.append(metadata["epoch"])


class Bench:
    """Train one net on one problem with one optimizer, for each recipe and seed.

    The step is compiled once: each `fit` begins with other weights and an optimizer
    that has been set back.

    Args:
        problem: A key of `PROBLEMS`.
        optimizer: A key of `OPTIMIZERS`.
        epochs: Integer, of each run.
        n_learners: Integer, of each recipe.
    """

    def __init__(self, problem, optimizer, *, epochs=EPOCHS, n_learners=N_LEARNERS):
        self.data, self.net = PROBLEMS[problem]
        self.epochs, self.n_learners = epochs, n_learners
        self.model = self._new()
        self.model.compile(
            OPTIMIZERS[optimizer](),
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
            jit_compile=False,
            steps_per_execution=10,  # less of the time goes to Python
        )
        self.model.optimizer.build(self.model.trainable_variables)
        variables = self.model.optimizer.variables
        self._slots = [(x, keras.ops.convert_to_numpy(x)) for x in variables]

    def run(self, seed, names=RECIPES):
        """Return the baseline's accuracy and, for each recipe, `(parent, learners)`."""
        x, y = self.data(seed)
        x_train, x_test, y_train, y_test = train_test_split(
            x.astype("float32"), y, train_size=800, test_size=800, random_state=seed
        )
        keras.utils.set_random_seed(seed)
        start = self._new().get_weights()
        train, test = (x_train, y_train), (x_test, y_test)
        baseline = self._fit(seed, start, train, test)
        trained, found = self.model.get_weights(), {}
        for name in names:
            parent = trained if name == "prune2edge" else start
            found[name] = self._learners(name, seed, parent, train, test, baseline)
        return baseline[-1], found

    def _new(self):
        model = keras.Sequential(self.net())
        kmn.layers.prepare(model)
        return model

    def _fit(self, seed, weights, train, test, *callbacks, epochs=None):
        """Return the test accuracy after each epoch."""
        for variable, value in self._slots:
            variable.assign(value)
        self.model.set_weights(weights)
        keras.utils.set_random_seed(seed)
        history = self.model.fit(
            *train,
            batch_size=8,
            epochs=epochs or self.epochs,
            validation_data=test,
            validation_batch_size=len(test[0]),
            verbose=0,
            callbacks=list(callbacks),
        )
        return history.history["val_accuracy"]

    def _learners(self, name, seed, weights, train, test, baseline):
        with tempfile.TemporaryDirectory() as folder:
            pool = Ends(folder)
            cycles = recipe(name, pool, train, self.n_learners)
            epochs = TUNING * self.n_learners if name == "prune2edge" else self.epochs
            found = self._fit(seed, weights, train, test, cycles, epochs=epochs)
        ends = pool.ends
        learners = [found[end - 1] for end in ends]
        if name == "prune2edge":
            return baseline[-1], learners
        every = ends[1] - ends[0]
        warmup = ends[0] - every
        return found[warmup - 1] if warmup else learners[0], learners


def measure(file, about, bench):
    """Write the rows of one seed."""
    baseline, found = bench.run(about["seed"])
    for name, (parent, learners) in found.items():
        values = {"baseline": baseline, "parent": parent, "learners": learners}
        file.add({**about, "recipe": name, **_rounded(values)})


def _rounded(values):
    return {name: np.round(value, 5).tolist() for name, value in values.items()}


def main():
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--problems", nargs="+", default=list(PROBLEMS))
    options.add_argument("--optimizers", nargs="+", default=list(OPTIMIZERS))
    options.add_argument("--out", type=Path, default=RESULTS)
    arguments = options.parse_args()
    file = ResultsFile(arguments.out, PRESET)
    bench = cache(Bench)
    for cell in product(arguments.seeds, arguments.problems, arguments.optimizers):
        about = dict(zip(("seed", "problem", "optimizer"), cell, strict=True))
        if not file.has(about):
            measure(file, about, bench(about["problem"], about["optimizer"]))
    print(table(file.results))


def table(results):
    """Return a table with a row for each problem and optimizer."""
    runs = results["runs"]
    names = ["Snapshot", "FreeTickets", "Prune and Tune", "Prune2Edge"]
    lines = [
        f"| problem, optimizer | seeds | baseline | {' | '.join(names)} |",
        f"|---|---|---|{'---|' * len(names)}",
    ]
    for problem in PROBLEMS:
        for optimizer in OPTIMIZERS:
            rows = [
                [
                    run
                    for run in runs
                    if (run["problem"], run["optimizer"], run["recipe"])
                    == (problem, optimizer, recipe)
                ]
                for recipe in RECIPES
            ]
            if all(rows):
                baseline = 100 * np.mean([run["baseline"] for run in rows[0]])
                cells = [len(rows[0]), f"{baseline:.1f}", *map(_cell, rows)]
                lines.append(
                    f"| {problem}, {optimizer} | {' | '.join(map(str, cells))} |"
                )
    return "\n".join(lines) + "\n"


def _cell(runs):
    """Return the learners' mean, and the worst one's mean distance from its parent."""
    mean = 100 * np.mean([run["learners"] for run in runs])
    worst = 100 * np.mean([min(run["learners"]) - run["parent"] for run in runs])
    return f"{mean:.1f} ({worst:+.1f})"


if __name__ == "__main__":
    main()
