"""Describe one learner of a pool."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_micronets.edge import Member

__all__ = ["METADATA_FILE", "Learner"]

METADATA_FILE = "learner.json"


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
            are arrays.
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
        """Read the metadata of a learner's folder."""
        values = json.loads((directory / METADATA_FILE).read_text())
        return cls(directory=directory, **values)

    def write(self, directory: Path) -> None:
        """Write the metadata into a folder."""
        values = self.to_dict(exclude=("directory",))
        text = json.dumps(values, indent=2, default=_plain)
        (directory / METADATA_FILE).write_text(text)

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
        """Load the model: a `keras.Model`, or a `Member` that runs the file."""
        if self.is_keras:
            return keras.saving.load_model(self.path, compile=False)
        return Member(
            self.path,
            name=self.name,
            from_logits=bool(self.from_logits),
            task=self.task,
        )


def _plain(value):
    """Return a number, or nested lists of numbers; as text what is neither."""
    try:
        array = np.asarray(ops.convert_to_numpy(value))
        return (array if array.dtype.kind in "biuf" else array.astype(float)).tolist()
    except (TypeError, ValueError):
        return str(value)
