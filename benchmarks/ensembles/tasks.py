"""The tasks: their data, networks, augmentation and training settings."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import train_test_split

from benchmarks.lib import data, nets, vibration

__all__ = ["TASKS", "Shifted", "Task"]


@dataclass(frozen=True)
class Task:
    """A data set, a network, and how it is trained.

    Attributes:
        load: Function `(path, seed)` that returns `(train, held_out, test)`, each a
            tuple `(x, y)`.
        build: Function `(width)` that returns a model whose output is logits.
        batches: Class of the augmented batches, `(x, y, batch_size=, seed=)`.
        epochs: Epochs of the baseline.
        pair_width: Largest width, in steps of 0.05, at which two int8 files take no
            more bytes and multiply-accumulates than the baseline's.
        quartet_width: That at which four int8 files take no more bytes than the
            baseline's float32 file.
        data: Name of the option with the path of the data, `None` if it is synthetic.
        batch_size: Samples per batch.
        peak: Learning rate at the start of the cosine.
        weight_decay: Weight decay of all rows; `None` for those chosen on held-out
            data. Defaults to `None`.
    """

    load: Callable
    build: Callable
    batches: type
    epochs: int
    pair_width: float
    quartet_width: float
    data: str | None = None
    batch_size: int = 32
    peak: float = 3e-3
    weight_decay: float | None = None


class Shifted(data.Batches):
    """Batches of series `(samples, time, ...)`, shifted in time, their ends joined."""

    largest: int | None = None  # shift in steps; `None` for any

    def augment(self, x):
        largest = self.largest or x.shape[1]
        shifts = self.rng.integers(-largest, largest + 1, len(x))
        return np.stack(
            [np.roll(one, n, axis=0) for one, n in zip(x, shifts, strict=True)]
        )


class SlightlyShifted(Shifted):
    """Series shifted by up to three steps."""

    largest = 3


def load_images(path, seed, label_noise=0.0):
    """2,500 CIFAR-10 images to train on, 2,500 held out, 16 by 16 pixels."""
    return data.load(
        path,
        train_size=5000,
        choose_size=2500,
        seed=seed,
        size=16,
        label_noise=label_noise,
    )


def load_all_images(path, seed):
    """47,500 CIFAR-10 images to train on, 2,500 held out."""
    return data.load(path, train_size=None, choose_size=2500, seed=seed)


def load_digits(path, seed):
    """60 clips of each spoken digit to train on, 30 held out.

    The test set is the official one and the training clips that are not drawn, of the
    same six speakers.
    """
    with np.load(path, allow_pickle=False) as file:
        x = np.concatenate([file["x_train"], file["x_test"]]).astype("float32")
        y = np.concatenate([file["y_train"], file["y_test"]]).astype(int)
        n_train = len(file["x_train"])
    drawn, rest = _split(np.arange(n_train), y[:n_train], 900, seed)
    train, held_out = _split(drawn, y[drawn], 600, seed)
    test = np.concatenate([rest, np.arange(n_train, len(x))])
    mean, scale = x[train].mean(), x[train].std()
    return tuple(((x[i] - mean) / scale, y[i]) for i in (train, held_out, test))


def _split(indices, y, size, seed):
    return train_test_split(indices, train_size=size, stratify=y, random_state=seed)


def load_vibration(path, seed, label_noise=0.1):
    """700 windows to train on and 700 held out, 10 % wrong labels; 5,000 to test."""
    x, y = vibration.make_vibration(1400, seed=seed)
    y = vibration.mislabel(y, label_noise, seed=seed)
    test = vibration.make_vibration(5000, seed=10_000 + seed)
    return (x[:700], y[:700]), (x[700:], y[700:]), test


def resnet8(width=1.0):
    return nets.resnet8((16, 16, 3), width=width)


def whole_resnet8(width=1.0):
    return nets.resnet8(width=width)


def load_noisy_images(path, seed):
    """The same images, of which 20 % to train on and to hold out are mislabelled."""
    return load_images(path, seed, label_noise=0.2)


TASKS = {
    "images": Task(load_images, resnet8, data.Augmented, 40, 0.65, 0.9, data="cifar10"),
    "noisy images": Task(
        load_noisy_images, resnet8, data.Augmented, 40, 0.65, 0.9, data="cifar10"
    ),
    "spoken digits": Task(
        load_digits, nets.ds_cnn, SlightlyShifted, 40, 0.45, 0.4, data="fsdd"
    ),
    "vibration": Task(load_vibration, nets.conv1d, Shifted, 40, 0.6, 0.8),
    # The decay shrinks weights over the whole run as the one chosen for "images" does,
    # 0.3 in 3,160 steps.
    "all images": Task(
        *(load_all_images, whole_resnet8, data.Augmented, 50, 0.65, 0.9),
        data="cifar10",
        batch_size=128,
        weight_decay=0.05,
    ),
}
