"""Pools of real learners for the comparison of selection methods.

    python -m benchmarks.selection.pools --data cifar10.npz --folder pools

Each pool is stored as the learners' predictions on data that was not used for their
training, tuning or selection. `selection/quality.py` splits that data into a part for
selection and a part for scoring.

* "cifar10 cycles": ResNet-8 from one fit. A parent becomes sparse; then each cycle
  moves connections and trains with a cosine learning rate, starting from the previous
  learner. 40 learners.
* "cifar10 prune2edge": ResNet-8 from one fit. A dense parent; each learner is the
  parent, pruned to a random sparsity and tuned for two epochs at a small learning
  rate, as published. 40 similar learners.
* "cifar10 mixed": ResNet-8 of three widths, trained separately for 2 to 16 epochs
  each. 24 learners that differ much in size and quality.
* "cifar10 side by side": 16 ResNet-8 of half the width, initialised apart and trained
  side by side in one fit.
* "digits forest": the 128 trees of a random forest.
* "digits mixed": 60 classifiers of seven families, each with its own hyper-parameters
  and bootstrap sample.

All but the last two train on 8,000 images of 16 x 16 and predict all 10,000 test
images: the first three in about 17, 20 and 26 minutes on one core. The last two train
on 600 digits and predict the other 1,197 in seconds. The preset "small" has 2,000
images and half as many learners and epochs.
"""

import argparse
import itertools
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import keras
import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

import keras_micronets as kmn
from benchmarks.cifar10.pipeline import mean_disagreement
from benchmarks.lib import data as cifar10
from benchmarks.lib import nets
from keras_micronets import layers, selection
from keras_micronets.callbacks import Cycle, LearnerCycles, masks
from keras_micronets.learning_rates import Cosine
from keras_micronets.schedules import PolynomialDecay

PEAK = 3e-3  # the learning rate that a cosine of Adam begins at
BATCH_SIZE = 64
WIDTHS = (0.5, 1.0, 1.5)


@dataclass(frozen=True)
class Preset:
    """The size of the pools.

    Attributes:
        train_size: CIFAR-10 images drawn; a fifth of them stays unused.
        parent_epochs: Epochs that train a parent.
        cycles: Learners out of one fit.
        mixed_epochs: Epochs of the networks trained alone.
        side_by_side: Members trained side by side, and their epochs.
        trees: Trees of the forest.
        classifiers: Plain classifiers.
    """

    train_size: int
    parent_epochs: int
    cycles: int
    mixed_epochs: tuple[int, ...]
    side_by_side: tuple[int, int]
    trees: int
    classifiers: int


PRESETS = {
    "full": Preset(10_000, 40, 40, (2, 4, 8, 16), (16, 20), 128, 60),
    "small": Preset(2_500, 20, 20, (1, 2, 4, 8), (16, 8), 128, 60),
    "smoke": Preset(250, 2, 3, (1,), (2, 1), 8, 14),
}


@dataclass(frozen=True)
class Pool:
    """What the learners of a pool predict.

    Attributes:
        probabilities: Float32 array `(learners, samples, classes)`.
        y: Integer labels `(samples,)`.
        names: Name of each learner.
        n_bytes: Bytes of each network's int8 file after gzip, as estimated; -1 for
            learners that are no networks.
    """

    probabilities: np.ndarray
    y: np.ndarray
    names: np.ndarray
    n_bytes: np.ndarray

    def __str__(self):
        own = selection.accuracy(self.probabilities, self.y)
        together = selection.accuracy(self.probabilities.mean(axis=0), self.y)
        return (
            f"{len(own)} learners, {len(self.y)} samples; accuracy: mean "
            f"{own.mean():.2%}, worst {own.min():.2%}, best {own.max():.2%}, all "
            f"together {together:.2%}; disagreement "
            f"{mean_disagreement(self.probabilities):.3f}"
        )


def load(
    name: str,
    folder: str | os.PathLike,
    data: str | os.PathLike | None = None,
    *,
    preset: str = "full",
    seed: int = 0,
) -> Pool:
    """Return a pool, which is made first if the folder does not have it.

    Args:
        name: One of `POOLS`.
        folder: Where the pools lie.
        data: The `.npz` of CIFAR-10, or `None` to let Keras download it; digits need
            none.
        preset: One of `PRESETS`.
        seed: Integer that everything is drawn by.

    Raises:
        ValueError: If the folder has the pool of another preset or seed.
    """
    path = Path(folder) / f"{name}.npz"
    setting = f"{preset}, seed {seed}"
    if not path.exists():
        write(path, POOLS[name](data, PRESETS[preset], seed), setting)
    with np.load(path) as file:
        if file["setting"] != setting:
            raise ValueError(
                f"Expected a pool of {setting!r}. Received: {path}, which is of "
                f"{str(file['setting'])!r}. Give another folder."
            )
        return Pool(*(file[field] for field in Pool.__dataclass_fields__))


def write(path: Path, pool: Pool, setting: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".partial")
    with unfinished.open("wb") as file:
        np.savez_compressed(file, setting=setting, **vars(pool))
    unfinished.replace(path)


def cifar_cycles(data, preset, seed):
    epochs_each = 3
    sparse_at = 0.8 * explored(preset, epochs_each)
    every_kernel = kmn.layers.Scope(first=True, last=True, small=True)
    make = partial(
        LearnerCycles,
        cycle=Cycle(
            mask=masks.Regrow(0.3, on_first_cycle=True, scope=every_kernel),
            learning_rate=Cosine(PEAK / 2),
        ),
        callbacks=[
            kmn.callbacks.WeightPruning(
                PolynomialDecay(0.0, 0.6, end=sparse_at),
                scope=every_kernel,
                allocation="global",
            )
        ],
    )
    return from_one_fit(make, epochs_each, data, preset, seed)


def cifar_prune2edge(data, preset, seed):
    return from_one_fit(LearnerCycles.prune2edge, 2, data, preset, seed)


def from_one_fit(make, epochs_each, data, preset, seed):
    """Train a parent, and then a learner each cycle.

    Args:
        make: Function of a `LearnerPool`, the number of learners and the options of
            `LearnerCycles`, which returns the callback.
        epochs_each: Epochs of a cycle.
        data, preset, seed: As for `load`.
    """
    train, test = images(data, preset, seed)
    with tempfile.TemporaryDirectory() as folder:
        pool = kmn.LearnerPool(folder)
        cycles = make(
            pool,
            n_learners=preset.cycles,
            warmup=explored(preset, epochs_each),
            warmup_learning_rate=Cosine(PEAK),
            seed=seed,
        )
        epochs = preset.parent_epochs + preset.cycles * epochs_each
        fit(network(train, 1.0, seed), train, epochs, cycles, seed, verbose=2)
        return of_networks(pool, test)


def explored(preset, epochs_each):
    cycles = preset.cycles * epochs_each
    return preset.parent_epochs / (preset.parent_epochs + cycles)


def cifar_mixed(data, preset, seed):
    train, test = images(data, preset, seed)
    grid = list(itertools.product(WIDTHS, preset.mixed_epochs, range(2)))
    bar = keras.utils.Progbar(len(grid), unit_name="network")
    with tempfile.TemporaryDirectory() as folder:
        pool = kmn.LearnerPool(folder)
        for index, (width, epochs, _) in enumerate(grid):
            keras.utils.clear_session()
            own_seed = 1000 * (seed + 1) + index
            run = f"{index:02d}-width-{width}-epochs-{epochs}"
            cosine = Cycle(learning_rate=Cosine(PEAK))
            cycles = LearnerCycles(pool, 1, cosine, run=run, seed=own_seed)
            fit(network(train, width, own_seed), train, epochs, cycles, own_seed)
            bar.add(1)
        return of_networks(pool, test)


def cifar_side_by_side(data, preset, seed):
    train, test = images(data, preset, seed)
    n_members, epochs = preset.side_by_side

    def build():
        model = nets.resnet8(train[0].shape[1:], width=0.5)
        layers.prepare(model)
        return model

    joint = kmn.side_by_side(build, n_members, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        pool = kmn.LearnerPool(folder)
        checkpoint = kmn.callbacks.LearnerCheckpoint(pool, every=epochs)
        fit(joint, train, epochs, checkpoint, seed, learning_rate=decay(train, epochs))
        return of_networks(pool, test)


def decay(train, epochs):
    n_steps = epochs * -(-len(train[0]) // BATCH_SIZE)
    return keras.optimizers.schedules.CosineDecay(PEAK, n_steps)


def images(data, preset, seed):
    train, _, test = cifar10.load(
        data, train_size=preset.train_size, seed=seed, size=16
    )
    return train, test


def network(train, width, seed):
    keras.utils.set_random_seed(seed)
    model = nets.resnet8(train[0].shape[1:], width=width)
    layers.prepare(model)  # of plain layers the pool estimates no int8 bytes
    return model


def fit(model, train, epochs, callback, seed, verbose=0, learning_rate=PEAK):
    model.compile(
        keras.optimizers.Adam(learning_rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    batches = cifar10.Augmented(*train, batch_size=BATCH_SIZE, seed=seed)
    model.fit(batches, epochs=epochs, verbose=verbose, callbacks=[callback])


def of_networks(pool, test):
    x, y = test
    return Pool(
        pool.predict(x),
        y.astype("int64"),
        np.array([learner.name for learner in pool]),
        np.array([learner.gzip_bytes for learner in pool]),
    )


def digits_forest(data, preset, seed):
    train, test = digits(seed)
    forest = RandomForestClassifier(preset.trees, random_state=seed).fit(*train)
    names = [f"tree {index:03d}" for index in range(preset.trees)]
    return of_classifiers(forest.estimators_, names, test)


def digits_mixed(data, preset, seed):
    (x, y), test = digits(seed)
    models, names = [], []
    bar = keras.utils.Progbar(preset.classifiers, unit_name="classifier")
    for index in range(preset.classifiers):
        rng = np.random.default_rng((seed, index))
        family = list(FAMILIES)[index % len(FAMILIES)]
        rows = rng.integers(len(x), size=500)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # as drawn
            models.append(FAMILIES[family](rng).fit(x[rows], y[rows]))
        names.append(f"{family} {index:02d}")
        bar.add(1)
    return of_classifiers(models, names, test)


def nearest_neighbours(rng):
    return KNeighborsClassifier(
        int(rng.integers(1, 16)), weights=rng.choice(["uniform", "distance"])
    )


def logistic_regression(rng):
    return LogisticRegression(C=10 ** rng.uniform(-3, 2), max_iter=500)


def naive_bayes(rng):
    return GaussianNB(var_smoothing=10 ** rng.uniform(-6, 0))


def support_vectors(rng):
    machine = SVC(C=10 ** rng.uniform(-1, 2), gamma=10 ** rng.uniform(-2, 0.5))
    return CalibratedClassifierCV(machine, ensemble=False)


def decision_tree(rng):
    return DecisionTreeClassifier(
        criterion=rng.choice(["gini", "entropy"]),
        max_depth=int(rng.integers(4, 13)),
        min_samples_leaf=int(rng.integers(1, 11)),
        random_state=int(rng.integers(2**31)),
    )


def perceptron(rng):
    return MLPClassifier(
        (int(rng.integers(8, 65)),),
        alpha=10 ** rng.uniform(-5, 0),
        max_iter=int(rng.integers(20, 201)),
        random_state=int(rng.integers(2**31)),
    )


def linear_discriminants(rng):
    return LinearDiscriminantAnalysis("lsqr", shrinkage=rng.uniform(0.01, 1))


FAMILIES: dict[str, Callable[[np.random.Generator], ClassifierMixin]] = {
    "nearest neighbours": nearest_neighbours,
    "logistic regression": logistic_regression,
    "naive Bayes": naive_bayes,
    "support vectors": support_vectors,
    "decision tree": decision_tree,
    "perceptron": perceptron,
    "linear discriminants": linear_discriminants,
}


def digits(seed):
    x, y = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(
        x / 16, y, train_size=600, random_state=seed, stratify=y
    )
    return (x_train, y_train), (x_test, y_test)


def of_classifiers(models: Sequence[ClassifierMixin], names, test) -> Pool:
    x, y = test
    return Pool(
        np.stack([model.predict_proba(x) for model in models]).astype("float32"),
        y,
        np.array(names),
        np.full(len(models), -1),
    )


POOLS: dict[str, Callable[..., Pool]] = {
    "cifar10 cycles": cifar_cycles,
    "cifar10 prune2edge": cifar_prune2edge,
    "cifar10 mixed": cifar_mixed,
    "cifar10 side by side": cifar_side_by_side,
    "digits forest": digits_forest,
    "digits mixed": digits_mixed,
}


def main():
    arguments = parse()
    preset = "smoke" if arguments.smoke else "full"
    for name in arguments.pools:
        start = time.perf_counter()
        pool = load(
            name, arguments.folder, arguments.data, preset=preset, seed=arguments.seed
        )
        seconds = time.perf_counter() - start
        print(f"{name}: {pool}; {seconds:.0f} s", flush=True)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", help="an .npz; without it Keras downloads CIFAR-10")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--pools", nargs="+", choices=POOLS, default=list(POOLS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="tiny pools")
    return parser.parse_args()


if __name__ == "__main__":
    main()
