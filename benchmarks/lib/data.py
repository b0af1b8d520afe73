"""CIFAR-10 and the augmentation of the benchmarks."""

import keras
import numpy as np
from sklearn.model_selection import train_test_split

MEAN = np.float32([125.3, 123.0, 113.9])  # of CIFAR-10's training images, a channel
SCALE = np.float32([63.0, 62.1, 66.7])


def load(path, *, train_size, seed, size=32, label_noise=0.0, choose_size=0.2):
    """Return `(train, choose, test)`, each a tuple `(x, y)`, standardised.

    Some of the training images are set aside for choosing learners.

    Args:
        path: An `.npz` with x_train, y_train, x_test, y_test, or `None` to let
            Keras download CIFAR-10.
        train_size: Integer, images drawn from the training set, or `None` for all.
        seed: Integer that draws them and splits them.
        size: Integer, the side of the images, 32 divided by a whole number; smaller
            ones are means over squares.
        label_noise: Float in [0, 1], the share of the images to train on and to
            choose by that get one of the other labels.
        choose_size: Share of the images drawn, or their number, set aside.
    """
    x_train, y_train, x_test, y_test = _arrays(path)
    if train_size is not None and train_size < len(x_train):
        x_train, _, y_train, _ = train_test_split(
            x_train, y_train, train_size=train_size, random_state=seed, stratify=y_train
        )
    y_train = _mislabel(y_train, label_noise, seed)
    x_train, x_choose, y_train, y_choose = train_test_split(
        x_train, y_train, test_size=choose_size, random_state=seed, stratify=y_train
    )
    parts = ((x_train, y_train), (x_choose, y_choose), (x_test, y_test))
    return tuple(((_shrink(x, size) - MEAN) / SCALE, y) for x, y in parts)


def _arrays(path):
    if path is None:
        (x_train, y_train), (x_test, y_test) = keras.datasets.cifar10.load_data()
    else:
        with np.load(path, allow_pickle=False) as file:
            names = ("x_train", "y_train", "x_test", "y_test")
            x_train, y_train, x_test, y_test = (file[name] for name in names)
    return x_train, y_train.ravel(), x_test, y_test.ravel()


def _shrink(x, size):
    step = x.shape[1] // size
    squares = x.reshape(len(x), size, step, size, step, x.shape[-1])
    return squares.mean((2, 4), dtype="float32")


def _mislabel(y, share, seed):
    rng = np.random.default_rng(seed)
    wrong = rng.permutation(len(y))[: round(share * len(y))]
    y = y.copy()
    n_classes = y.max() + 1
    y[wrong] = (y[wrong] + rng.integers(1, n_classes, len(wrong))) % n_classes
    return y


class Batches(keras.utils.PyDataset):
    """Shuffled batches of a data set that subclasses augment.

    Args:
        x: Samples.
        y: Labels.
        batch_size: Integer.
        seed: Integer.
    """

    def __init__(self, x, y, *, batch_size, seed):
        super().__init__()
        self.x, self.y, self.batch_size = x, y, batch_size
        self.rng = np.random.default_rng(seed)
        self.on_epoch_end()

    def __len__(self):
        return -(-len(self.x) // self.batch_size)

    def __getitem__(self, index):
        rows = self.order[index * self.batch_size :][: self.batch_size]
        return self.augment(self.x[rows]), self.y[rows]

    def on_epoch_end(self):
        self.order = self.rng.permutation(len(self.x))

    def augment(self, x):
        """Return a batch of samples, changed at random."""
        raise NotImplementedError


class Augmented(Batches):
    """Batches of images `(samples, height, width, channels)`, flipped and shifted.

    Shifts are by up to a tenth of the height.
    """

    def augment(self, x):
        pad = x.shape[1] // 10
        wide = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="reflect")
        tops, lefts = self.rng.integers(0, 2 * pad + 1, (2, len(x)))
        flips = self.rng.choice([-1, 1], len(x))
        size = x.shape[1]
        return np.stack(
            [
                image[top : top + size, left : left + size][:, ::flip]
                for image, top, left, flip in zip(wide, tops, lefts, flips, strict=True)
            ]
        )
