"""The data of the quickstart."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

__all__ = ["Problem", "load_problem"]


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
    """Load handwritten digits as a cheap sensor sees them, or images from a file.

    The digits are scikit-learn's 1797. Each image has a random gain (0.6 to 1.4), an
    offset (-0.2 to 0.2) that drifts by as much from the middle row to the first and the
    last, Gaussian noise (standard deviation 0.1), 12 % dead pixels and, one time in
    two, a dead row. In the data for training and selection, 20 % of the labels are
    replaced by another digit; the labels of the test data are right.

    Args:
        path: An `.npz` file with `x_train`, `y_train`, `x_test`, `y_test`: images
            `(samples, height, width[, channels])`, uint8 or floats, and integer
            labels; used as they are. `None` for the digits, half of which are test
            data. Defaults to `None`.
        seed: Integer, for the random split and the faults. Defaults to `0`.

    Returns:
        A `Problem`; a quarter of the training data is reserved to select learners.

    Raises:
        ValueError: If the file lacks an array or has an array of another shape.
    """
    if path is None:
        x_train, y_train, x_test, y_test = _noisy_digits(seed)
        name = "handwritten digits, read by a faulty sensor, 20 % wrong labels"
    else:
        x_train, y_train, x_test, y_test = _read_arrays(Path(path))
        name = Path(path).name
    x_train, x_test = _as_images(x_train), _as_images(x_test)
    x_train, x_choose, y_train, y_choose = train_test_split(
        x_train, y_train, test_size=0.25, random_state=seed, stratify=y_train
    )
    n_classes = int(max(y_train.max(), y_choose.max(), y_test.max())) + 1
    return Problem(
        name, (x_train, y_train), (x_choose, y_choose), (x_test, y_test), n_classes
    )


def _noisy_digits(seed):
    digits = load_digits()
    x, y = digits.images / 16, digits.target
    rng = np.random.default_rng(seed)
    x_train, x_test, y_train, y_test = train_test_split(
        _read_by_sensor(x, rng), y, test_size=0.5, random_state=seed, stratify=y
    )
    wrong = (y_train + rng.integers(1, 10, len(y_train))) % 10
    y_train = np.where(rng.random(len(y_train)) < 0.2, wrong, y_train)
    return x_train, y_train, x_test, y_test


def _read_by_sensor(x, rng):
    """Return images in [0, 1] as a cheap, drifting sensor reads them."""
    n_samples, height, _ = x.shape
    each = (n_samples, 1, 1)
    position = np.linspace(-1, 1, height)[:, None]
    x = x * rng.uniform(0.6, 1.4, each) + rng.uniform(-0.2, 0.2, each)
    x = x + position * rng.uniform(-0.2, 0.2, each)
    x = x + 0.1 * rng.standard_normal(x.shape)
    is_dead = rng.random(x.shape) < 0.12
    rows = np.flatnonzero(rng.random(n_samples) < 0.5)
    is_dead[rows, rng.integers(height, size=len(rows))] = True
    return np.where(is_dead, 0, x).clip(0, 1)


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
