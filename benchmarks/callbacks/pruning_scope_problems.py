"""Small nets and small data sets on which `pruning_scope.py` prunes."""

import functools
from dataclasses import dataclass

import keras
import numpy as np
from keras import layers

from benchmarks.lib import data, nets

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


def vibration(path, seed):
    """Return 1,500 windows of a machine's vibration to train on, and 2,000 to test.

    A window has 128 samples of three axes. Six classes: healthy; unbalance (a stronger
    first harmonic); misalignment (second); looseness (half the speed); a bearing fault
    (decaying impacts at 3.6 times the speed); a gear fault (a modulated high tone).
    Speed, phase, severity, gain and noise differ in each window.
    """
    rng = np.random.default_rng((7, seed))
    n = 1500 + N_TEST
    y = rng.integers(0, 6, n)
    t = np.arange(128) / 128
    speed, severity = rng.uniform(5, 11, (n, 1)), rng.uniform(0.25, 1.0, (n, 1))

    def tone(ratio):
        phase = rng.uniform(0, 2 * np.pi, (n, 1))
        return np.sin(2 * np.pi * ratio * speed * t + phase)

    since = (3.6 * speed * t + rng.uniform(0, 1, (n, 1))) % 1.0
    impacts = np.exp(-6 * since) * np.sin(2 * np.pi * 5 * since)
    faults = [0, tone(1), tone(2), tone(0.5), 1.5 * impacts, (1 + tone(1)) * tone(4.5)]
    healthy = 0.7 * tone(1) + 0.3 * tone(2) + 0.15 * tone(3)
    fault = np.choose(y[:, None], np.broadcast_arrays(*faults, healthy)[:-1])
    mixing = rng.normal(1.0, 0.3, (n, 1, 3)) * rng.uniform(0.7, 1.4, (n, 1, 1))
    x = (healthy + severity * fault)[..., None] * mixing
    x = (x + rng.normal(0, 0.6, x.shape)).astype("float32")
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


def conv1d():
    """Return a net of five Conv1D layers (23k)."""
    x = inputs = keras.Input((128, 3))
    for filters, size, strides in (
        (16, 7, 2),
        (32, 5, 2),
        (48, 3, 1),
        (48, 3, 1),
        (64, 3, 1),
    ):
        x = layers.Conv1D(filters, size, strides, "same", use_bias=False)(x)
        x = nets.normalized(x)
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(6)(x), name="conv1d")


resnet8 = functools.partial(nets.resnet8, (16, 16, 3), width=0.5)

PROBLEMS = {
    "DS-CNN": Problem(nets.ds_cnn, spoken_digits, "fsdd"),
    "MobileNetV1 0.25": Problem(mobilenet, cifar10, "cifar10", True),
    "ResNet-8": Problem(resnet8, cifar10, "cifar10", True),
    "Conv1D": Problem(conv1d, vibration, None),
}
