"""The quickstart's network, and how baseline and learners are trained."""

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
from keras_micronets.schedules import PolynomialDecay


@dataclass(frozen=True)
class Problem:
    """Images with labels, in three parts.

    Attributes:
        name: What the data is.
        train: Tuple `(x, y)` to train on.
        choose: Tuple `(x, y)` from the training data, to choose learners on.
        test: Tuple `(x, y)` that is only scored.
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
            labels. `None` for the digits, half of which are drawn to test. Defaults
            to `None`.
        seed: Integer that draws the split. Defaults to `0`.

    Returns:
        A `Problem`; a fifth of the training data is set aside for choosing.

    Raises:
        ValueError: If the file lacks an array or its shapes do not fit.
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
            f"Expected an .npz file. Received: {path}, which is not there."
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


BATCH_SIZE = 32
LEARNING_RATE = 2e-3
LEARNERS_BEGIN = 0.4


def small_cnn(input_shape: tuple[int, int, int], n_classes: int) -> keras.Model:
    """Return the quickstart's network, compiled; it puts out logits."""

    def convolution(filters):
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
    """Train the float32 network that everything is compared with."""
    keras.utils.set_random_seed(seed)
    model = small_cnn(problem.train[0].shape[1:], problem.n_classes)
    fall = keras.callbacks.LearningRateScheduler(
        lambda epoch: _cosine(epoch / max(1, epochs - 1))
    )
    _fit(model, problem, epochs, verbose, [fall])
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
    """Fill a pool with sparse, quantised learners of one run.

    It begins with the weights that the baseline of the same seed began with. The
    learning rate falls once, while the net becomes sparse; then it restarts for each
    learner (snapshot ensembles, Huang et al. 2017).
    """
    begin, every = plan_cycles(epochs, n_learners)
    keras.utils.set_random_seed(seed)
    model = small_cnn(problem.train[0].shape[1:], problem.n_classes)
    _fit(
        model,
        problem,
        epochs,
        verbose,
        [
            keras.callbacks.LearningRateScheduler(_restarts(begin, every)),
            callbacks.WeightPruning(
                PolynomialDecay(0.0, 0.85, end=0.9, power=4), allocation="global"
            ),
            callbacks.QuantizationAwareTraining(start=0.2),
            callbacks.LearnerCheckpoint(
                pool, every=every, start=(begin + 1) / epochs, seed=seed
            ),
        ],
    )


def plan_cycles(epochs: int, n_learners: int) -> tuple[int, int]:
    """Return the epoch at which the cycles begin, and the epochs of each.

    Raises:
        ValueError: If there are fewer epochs than the learners need.
    """
    every = int(epochs * (1 - LEARNERS_BEGIN) / n_learners)
    if every < 1:
        raise ValueError(
            f"Expected at least {math.ceil(n_learners / (1 - LEARNERS_BEGIN))} epochs "
            f"for {n_learners} learners. Received: epochs={epochs}."
        )
    return every * (epochs // every - n_learners), every


def _fit(model, problem, epochs, verbose, callbacks):
    x, y = problem.train
    bar = [_EpochBar(epochs)] if verbose else []
    model.fit(
        x, y, batch_size=BATCH_SIZE, epochs=epochs, verbose=0, callbacks=callbacks + bar
    )


class _EpochBar(keras.callbacks.Callback):
    """One progress bar for a whole run, where Keras draws one an epoch."""

    def __init__(self, epochs):
        super().__init__()
        self._bar = keras.utils.Progbar(epochs, unit_name="epoch")

    def on_epoch_end(self, epoch, logs=None):
        shown = {k: v for k, v in (logs or {}).items() if k != "learning_rate"}
        self._bar.update(epoch + 1, list(shown.items()))


def _cosine(done):
    """The learning rate of a fall from full to almost nothing."""
    low = 0.02
    return LEARNING_RATE * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * done)))


def _restarts(begin, every):
    def learning_rate(epoch):
        if epoch < begin:
            return _cosine(epoch / max(1, begin - 1))
        return _cosine((epoch - begin) % every / max(1, every - 1))

    return learning_rate
