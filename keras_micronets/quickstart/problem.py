import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


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
