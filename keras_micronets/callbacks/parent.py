import io
from pathlib import Path

import keras
import numpy as np
from keras import ops

from keras_micronets.learners.files import write_atomically


class Parent:
    """The weights that the cycles of a run begin with, kept in a file.

    Masks and the ranges of quantisers are among them; the states of random number
    generators are not, so that no two cycles see the same noise.

    Args:
        path: The file, an `.npz`.
    """

    def __init__(self, path: Path):
        self.path = path

    def save(self, model: keras.Model) -> None:
        """Keep the weights that a model has now."""
        buffer = io.BytesIO()
        np.savez(buffer, *(ops.convert_to_numpy(weight) for weight in model.weights))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, buffer.getvalue())

    def restore(self, model: keras.Model) -> None:
        """Give a model the weights that were kept."""
        with np.load(self.path, allow_pickle=False) as arrays:
            for weight, array in zip(model.weights, arrays.values(), strict=True):
                weight.assign(array)
