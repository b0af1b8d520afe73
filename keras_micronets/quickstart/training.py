"""The data and the network of the quickstart, and their training."""

import math
import os
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from keras_micronets import callbacks
from keras_micronets.learners import LearnerPool
from keras_micronets.learning_rates import Cosine
from keras_micronets.schedules import PolynomialDecay

__all__ = [
    "Problem",
    "load_problem",
    "plan_cycles",
    "small_cnn",
    "train_baseline",
    "train_learners",
]

BATCH_SIZE = 32
LEARNING_RATE = 2e-3
LEARNERS_BEGIN = 0.4


@dataclass(frozen=True)
class Problem:
    """Images with labels, in three parts.

    Attributes:
        name: Name of the data.
        train: Tuple `(x, y)` to train on.
        choose: Tuple `(x, y)` to select learners on, a part of the training data.
        test: Tuple `(x, y)` to score the result on, once.
        n_classes: Number of classes.
    """

    name: str
    train: tuple[np.ndarray, np.ndarray]
    choose: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    n_classes: int


def load_problem(path: str | os.PathLike | None = None, *, seed: int = 0) -> Problem:
    """Load scikit-learn's handwritten digits, or images from a file.

    Args:
        path: An `.npz` file with `x_train`, `y_train`, `x_test`, `y_test`: images
            `(samples, height, width[, channels])`, uint8 or floats, and integer
            labels. `None` for the digits, half of which are test data. Defaults to
            `None`.
        seed: Integer, for the random split. Defaults to `0`.

    Returns:
        A `Problem`; a fifth of the training data is reserved to select learners.

    Raises:
        ValueError: If the file lacks an array or has an array of another shape.
    """
    if path is None:
        digits = load_digits()
        x, y = digits.images.astype("float32") / 16, digits.target
        parts = train_test_split(x, y, test_size=0.5, random_state=seed, stratify=y)
        x_train, x_test, y_train, y_test = parts
        name = "scikit-learn's handwritten digits"
    else:
        x_train, y_train, x_test, y_test = _read_arrays(Path(path))
        name = Path(path).name
    x_train, x_test = _as_images(x_train), _as_images(x_test)
    x_train, x_choose, y_train, y_choose = train_test_split(
        x_train, y_train, test_size=0.2, random_state=seed, stratify=y_train
    )
    n_classes = int(max(y_train.max(), y_choose.max(), y_test.max())) + 1
    return Problem(
        name, (x_train, y_train), (x_choose, y_choose), (x_test, y_test), n_classes
    )


def _read_arrays(path):
    names = ("x_train", "y_train", "x_test", "y_test")
    if not path.is_file():
        raise ValueError(
            f"Expected an .npz file. Received: {path}, which does not exist."
        )
    with np.load(path, allow_pickle=False) as file:
        missing = [name for name in names if name not in file]
        if missing:
            raise ValueError(
                f"Expected an .npz file with {', '.join(names)}. Received: {path} "
                f"without {', '.join(missing)}."
            )
        return [file[name].ravel() if name[0] == "y" else file[name] for name in names]


def _as_images(x):
    if x.ndim == 3:
        x = x[..., None]
    if x.ndim != 4:
        raise ValueError(
            "Expected images of shape (samples, height, width[, channels]). "
            f"Received: shape {x.shape}."
        )
    return x.astype("float32") / 255 if x.dtype == np.uint8 else x.astype("float32")


def small_cnn(input_shape: tuple[int, int, int], n_classes: int) -> keras.Model:
    """Return the compiled network of the quickstart, which returns logits."""

    def convolution(filters: int) -> list[keras.Layer]:
        return [
            keras.layers.Conv2D(filters, 3, padding="same", use_bias=False),
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.ReLU(),
        ]

    model = keras.Sequential(
        [
            keras.Input(input_shape),
            *convolution(32),
            *convolution(32),
            keras.layers.MaxPooling2D(2),
            *convolution(64),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(n_classes),
        ]
    )
    model.compile(
        keras.optimizers.Adam(LEARNING_RATE),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def train_baseline(
    problem: Problem, *, epochs: int, seed: int, verbose: int = 0
) -> keras.Model:
    """Train the float32 network that is the baseline of all comparisons."""
    keras.utils.set_random_seed(seed)
    model = small_cnn(problem.train[0].shape[1:], problem.n_classes)
    _fit(model, problem, epochs, verbose, [_restarts(epochs, every=1)])
    return model


def train_learners(
    problem: Problem,
    pool: LearnerPool,
    *,
    epochs: int,
    n_learners: int,
    seed: int,
    verbose: int = 0,
) -> None:
    """Add sparse, quantised learners of one run to a pool.

    The run starts with the initial weights of the baseline of the same seed. The
    learning rate decreases once, while the network becomes sparse; then it restarts
    for each learner (snapshot ensembles, Huang et al. 2017).
    """
    start, every = plan_cycles(epochs, n_learners)
    keras.utils.set_random_seed(seed)
    model = small_cnn(problem.train[0].shape[1:], problem.n_classes)
    _fit(
        model,
        problem,
        epochs,
        verbose,
        [
            _restarts(start, every),
            callbacks.WeightPruning(
                PolynomialDecay(0.0, 0.85, end=0.9, power=4), allocation="global"
            ),
            callbacks.QuantizationAwareTraining(start=0.2),
            callbacks.LearnerCheckpoint(
                pool, every=every, start=(start + 1) / epochs, seed=seed
            ),
        ],
    )


def plan_cycles(epochs: int, n_learners: int) -> tuple[int, int]:
    """Return the epoch at which the cycles begin, and the epochs of each.

    Raises:
        ValueError: If there are too few epochs for the learners.
    """
    every = int(epochs * (1 - LEARNERS_BEGIN) / n_learners)
    if every < 1:
        raise ValueError(
            f"Expected at least {math.ceil(n_learners / (1 - LEARNERS_BEGIN))} epochs "
            f"for {n_learners} learners. Received: epochs={epochs}."
        )
    return every * (epochs // every - n_learners), every


def _fit(model, problem, epochs, verbose, callbacks):
    bar = [_EpochBar(epochs)] if verbose else []
    options = {"batch_size": BATCH_SIZE, "epochs": epochs, "verbose": 0}
    model.fit(*problem.train, callbacks=callbacks + bar, **options)


class _EpochBar(keras.callbacks.Callback):
    """Show one progress bar for a whole run; Keras shows one for each epoch."""

    def __init__(self, epochs):
        super().__init__()
        self._bar = keras.utils.Progbar(epochs, unit_name="epoch")

    def on_epoch_end(self, epoch, logs=None):
        shown = {k: v for k, v in (logs or {}).items() if k != "learning_rate"}
        self._bar.update(epoch + 1, list(shown.items()))


def _restarts(start, every):
    """Return the callback of a cosine until an epoch, then of one every few epochs."""
    rate = Cosine(LEARNING_RATE, end=0.02)

    def learning_rate(epoch: int) -> float:
        if epoch < start:
            return rate(epoch / max(1, start - 1))
        return rate((epoch - start) % every / max(1, every - 1))

    return keras.callbacks.LearningRateScheduler(learning_rate)
