"""The networks of the quickstart and their training."""

from typing import Any

import keras

from keras_micronets import callbacks, losses
from keras_micronets.joint_training import side_by_side
from keras_micronets.learners import LearnerPool
from keras_micronets.learning_rates import Cosine
from keras_micronets.quickstart.problem import Problem
from keras_micronets.schedules import PolynomialDecay

__all__ = ["small_cnn", "train_learners", "train_network", "train_student"]

BATCH_SIZE = 32
LEARNING_RATE = 3e-3
SPARSITY = 0.3
QUANTIZATION_START = 0.7


def small_cnn(
    input_shape: tuple[int, int, int], n_classes: int, *, regularize: bool = False
) -> keras.Model:
    """Return the compiled network of the quickstart, which returns logits.

    Args:
        input_shape: Height, width and channels of an image.
        n_classes: Number of classes.
        regularize: Boolean, whether the network trains with noise on the images,
            weight decay and label smoothing, for which labels are one-hot. Defaults
            to `False`.
    """

    def convolution(filters: int) -> list[keras.Layer]:
        return [
            keras.layers.Conv2D(filters, 3, padding="same", use_bias=False),
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.ReLU(),
        ]

    model = keras.Sequential(
        [
            keras.Input(input_shape),
            *([keras.layers.GaussianNoise(0.15)] if regularize else []),
            *convolution(8),
            *convolution(8),
            keras.layers.MaxPooling2D(2),
            *convolution(16),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.Dense(n_classes),
        ]
    )
    return _compile(model, regularize)


def _compile(model, regularize, loss=None):
    if loss is None and regularize:
        loss = keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=0.2
        )
    optimizer = keras.optimizers.AdamW(
        LEARNING_RATE, weight_decay=2.0 if regularize else 0.0
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    loss = loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    return model


def _network(problem, regularize=True):
    shape = problem.train[0].shape[1:]
    return small_cnn(shape, problem.n_classes, regularize=regularize)


def train_network(
    problem: Problem,
    *,
    epochs: int,
    seed: int,
    regularize: bool = False,
    verbose: int = 0,
) -> keras.Model:
    """Train one float32 network: the baseline, or a regularised one."""
    keras.utils.set_random_seed(seed)
    model = _network(problem, regularize)
    data = _one_hot(problem) if regularize else problem.train
    _fit(model, *data, epochs=epochs, verbose=verbose)
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
    """Add sparse, quantised learners to a pool: regularised networks in one `fit`."""
    keras.utils.set_random_seed(seed)
    joint = side_by_side(lambda: _network(problem), n_learners, seed=seed)
    _fit(
        _compile(joint, True),
        *_one_hot(problem),
        epochs=epochs,
        verbose=verbose,
        callbacks=[
            callbacks.WeightPruning(PolynomialDecay(0.0, SPARSITY, end=0.6)),
            callbacks.QuantizationAwareTraining(start=QUANTIZATION_START),
            callbacks.LearnerCheckpoint(pool, every=epochs, seed=seed),
        ],
    )


def train_student(
    problem: Problem, teacher: Any, *, epochs: int, seed: int, verbose: int = 0
) -> keras.Model:
    """Train one quantised network on the outputs of a teacher."""
    from keras_micronets.distillation import distill

    keras.utils.set_random_seed(seed)
    loss = losses.Distillation(weight=1.0, temperature=1.0, from_logits=True)
    student = _compile(_network(problem), True, loss)
    data = distill(
        teacher,
        *problem.train,
        student=student,
        batch_size=BATCH_SIZE,
        seed=seed,
        verbose=0,
    )
    quantization = callbacks.QuantizationAwareTraining(start=QUANTIZATION_START)
    _fit(student, data, epochs=epochs, verbose=verbose, callbacks=[quantization])
    return student


def _one_hot(problem):
    x, y = problem.train
    return x, keras.utils.to_categorical(y, problem.n_classes)


def _fit(model, *data, epochs, verbose, callbacks=()):
    rate = Cosine(LEARNING_RATE, end=0.01)
    schedule = keras.callbacks.LearningRateScheduler(lambda epoch: rate(epoch / epochs))
    bar = [_EpochBar(epochs)] if verbose else []
    options = {"batch_size": BATCH_SIZE} if len(data) > 1 else {}
    options |= {"epochs": epochs, "verbose": 0}
    model.fit(*data, callbacks=[schedule, *callbacks, *bar], **options)


class _EpochBar(keras.callbacks.Callback):
    """Show one progress bar for a whole run, with the values of the latest epoch."""

    def __init__(self, epochs):
        super().__init__()
        # Other metrics than these would be averaged over the epochs.
        self._bar = keras.utils.Progbar(
            epochs, unit_name="epoch", stateful_metrics=["loss", "accuracy", "sparsity"]
        )

    def on_epoch_end(self, epoch, logs=None):
        logs = logs or {}
        shown = [(k, logs[k]) for k in self._bar.stateful_metrics if k in logs]
        self._bar.update(epoch + 1, shown)
