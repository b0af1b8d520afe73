"""Describe one learner of a pool."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_micronets.edge import Member
from keras_micronets.edge.bundle.integrity import sha256

__all__ = ["METADATA_FILE", "READ_ERRORS", "Learner"]

METADATA_FILE = "learner.json"
READ_ERRORS = (OSError, ValueError, TypeError, KeyError)


@dataclass(frozen=True)
class Learner:
    """Describe one model of a pool and its file.

    Attributes:
        directory: Folder of the learner.
        name: Name within the pool.
        file: Name of the model's file: `model.keras` or `model.tflite`.
        sha256: Hash of that file.
        n_bytes: Size of that file.
        gzip_bytes: Size of a `.tflite` file after gzip; for a Keras model, an
            estimate for its int8 file.
        from_logits: Whether the model's output is logits; `None` if that is unknown,
            and the outputs must be probabilities.
        n_classes: Number of classes, or of predicted numbers.
        architecture: Hash shared by learners that differ in their weights only.
        sparsity: Share of the weights that the masks remove.
        quantized: Whether it computes, or simulates, 8-bit integers.
        run: Name of its training run.
        epoch: Epochs trained.
        seed: Seed of the run, if known.
        metrics: The metrics at that epoch: numbers, and lists of them for metrics that
            are arrays. What JSON cannot hold is left out: NaN, infinities and objects
            that are no numbers; within a list it is `None`.
        origin: How it was made, in words.
        source: Hash of the learner that it was quantised from, if it was.
        created: Time in ISO format, UTC.
        task: What it predicts, one of `edge.TASKS`.
        output_shape: Shape of a sample's prediction; `None` for `(n_classes,)`.
    """

    directory: Path
    name: str
    file: str
    sha256: str
    n_bytes: int
    gzip_bytes: int
    from_logits: bool | None
    n_classes: int
    architecture: str
    sparsity: float = 0.0
    quantized: bool = False
    run: str | None = None
    epoch: int | None = None
    seed: int | None = None
    metrics: dict = field(default_factory=dict)
    origin: str = ""
    source: str | None = None
    created: str = ""
    task: str = "multiclass"
    output_shape: tuple[int, ...] | None = None

    @property
    def outputs(self) -> tuple[int, ...]:
        """Shape of a sample's prediction."""
        return tuple(self.output_shape or (self.n_classes,))

    @classmethod
    def read(cls, directory: Path) -> "Learner":
        """Read the metadata of a learner's folder; `READ_ERRORS` if it is damaged."""
        values = json.loads((directory / METADATA_FILE).read_text("utf-8"))
        learner = cls(directory=directory, **values)
        if learner.name != directory.name:
            raise ValueError(f"its {METADATA_FILE} is that of {learner.name!r}")
        return learner

    def write(self, directory: Path) -> None:
        """Write the metadata into a folder, as JSON."""
        values = _plain(self.to_dict(exclude=("directory",)))
        text = json.dumps(values, indent=2, allow_nan=False)
        (directory / METADATA_FILE).write_text(text, "utf-8")

    def verify(self) -> None:
        """Check that the model's file is the one that was added.

        Raises:
            ValueError: If its bytes are others.
        """
        if sha256(self.path) != self.sha256:
            raise ValueError(
                "Expected the model's file as it was added, with SHA-256 "
                f"{self.sha256}. Received: {self.path}, which has changed. Restore the "
                f"file, remove the learner's folder, or add {self.name!r} again."
            )

    def to_dict(self, *, exclude: tuple[str, ...] = ()) -> dict[str, Any]:
        """Return the attributes as a dictionary, without those excluded."""
        return {key: x for key, x in vars(self).items() if key not in exclude}

    @property
    def path(self) -> Path:
        """Path of the model's file."""
        return self.directory / self.file

    @property
    def is_keras(self) -> bool:
        """Whether it is a Keras model, not a `.tflite` file."""
        return self.file.endswith(".keras")

    def load(self) -> Any:
        """Load the model: a `keras.Model`, or a `Member` that runs the file.

        Raises:
            ValueError: If the file has changed since it was added.
        """
        self.verify()
        if self.is_keras:
            return keras.saving.load_model(self.path, compile=False)
        return Member(
            self.path,
            name=self.name,
            from_logits=bool(self.from_logits),
            task=self.task,
        )


_LEFT_OUT = object()


def _plain(value):
    """Return a value as JSON holds it, or `_LEFT_OUT`."""
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Mapping):
        items = ((str(key), _plain(item)) for key, item in value.items())
        return {key: item for key, item in items if item is not _LEFT_OUT}
    if isinstance(value, list | tuple):
        items = map(_plain, value)
        return [None if item is _LEFT_OUT else item for item in items]
    if isinstance(value, float):
        return value if math.isfinite(value) else _LEFT_OUT
    try:
        array = np.asarray(ops.convert_to_numpy(value))
        return _plain((array if array.dtype.kind in "biu" else _floats(array)).tolist())
    except (TypeError, ValueError):
        return _LEFT_OUT


def _floats(array):
    return array if array.dtype.kind == "f" else array.astype(float)
