"""Small nets and small data sets on which `pruning_scope.py` prunes."""

import functools
from dataclasses import dataclass

import keras
import numpy as np
from keras import layers

from benchmarks.lib import data, nets, vibration

N_TEST = 2000


@dataclass(frozen=True)
class Problem:
    """A net and its data.

    Attributes:
        net: Function that returns a new model.
        load: Function `(path, seed) -> (train, test)`, each a tuple `(x, y)`.
        path: Name of the option with the path of the data, or `None`.
        augmented: Whether images are flipped and shifted at random.
    """

    net: object
    load: object
    path: str | None
    augmented: bool = False


def cifar10(path, seed):
    """Return 2,500 images of 16 x 16 pixels to train on, and 2,000 to test."""
    train, _, test = data.load(
        path, train_size=3000, choose_size=500, seed=seed, size=16
    )
    return train, tuple(part[:N_TEST] for part in test)


def spoken_digits(path, seed):
    """Return 240 log-mel spectrograms of each digit to train on, and 300 to test."""
    with np.load(path, allow_pickle=False) as file:
        x, y, x_test, y_test = (
            file[name].astype("float32")
            for name in ("x_train", "y_train", "x_test", "y_test")
        )
    order = np.random.default_rng(seed).permutation(len(y))
    rows = np.concatenate([order[y[order] == digit][:240] for digit in range(10)])
    mean, scale = x[rows].mean(), x[rows].std()
    train = (x[rows] - mean) / scale, y[rows].astype("int32")
    return train, ((x_test - mean) / scale, y_test.astype("int32"))


def machine(path, seed):
    """Return 1,500 windows of a machine's vibration to train on, and 2,000 to test."""
    x, y = vibration.make_vibration(1500 + N_TEST, seed=seed)
    return (x[:1500], y[:1500]), (x[1500:], y[1500:])


def mobilenet():
    """Return MobileNetV1 of width 0.25 up to its ninth block (48k)."""
    x = inputs = keras.Input((16, 16, 3))
    x = nets.normalized(layers.Conv2D(8, 3, 2, "same", use_bias=False)(x))
    for filters, strides in (
        (16, 1),
        (32, 2),
        (32, 1),
        (64, 1),
        (64, 1),
        (128, 2),
        (128, 1),
        (128, 1),
    ):
        x = nets.separable(x, filters, strides)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10)(x), name="mobilenet")


resnet8 = functools.partial(nets.resnet8, (16, 16, 3), width=0.5)

PROBLEMS = {
    "DS-CNN": Problem(nets.ds_cnn, spoken_digits, "fsdd"),
    "MobileNetV1 0.25": Problem(mobilenet, cifar10, "cifar10", True),
    "ResNet-8": Problem(resnet8, cifar10, "cifar10", True),
    "Conv1D": Problem(nets.conv1d, machine, None),
}
