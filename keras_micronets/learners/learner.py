import json
from dataclasses import dataclass, field
from pathlib import Path

import keras

from keras_micronets.edge import Member

METADATA_FILE = "learner.json"


@dataclass(frozen=True)
class Learner:
    """One model of a pool, as a file with what is known about it.

    Attributes:
        directory: Folder of the learner.
        name: Name within the pool.
        file: Name of the model's file: `model.keras` or `model.tflite`.
        sha256: Hash of that file.
        n_bytes: Size of that file.
        gzip_bytes: Size after gzip of a `.tflite` file; for a Keras model, an
            estimate for the int8 file it will make.
        from_logits: Whether the model puts out logits; `None` if that is not known,
            and its outputs must be probabilities.
        n_classes: Number of classes.
        architecture: Hash shared by the learners that differ in weights only.
        sparsity: Share of the weights that the masks remove.
        quantized: Whether it computes, or simulates, 8-bit integers.
        run: Name of the run that it comes from.
        epoch: Epochs trained.
        seed: Seed of the run, if it was told.
        metrics: The metrics at that epoch.
        origin: How it was made, in words.
        source: Hash of the learner that it was quantised from, if it was.
        created: Time in ISO format, UTC.
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

    @classmethod
    def read(cls, directory: Path) -> "Learner":
        """Read the metadata of a learner's folder."""
        values = json.loads((directory / METADATA_FILE).read_text())
        return cls(directory=directory, **values)

    def write(self, directory: Path) -> None:
        """Write the metadata into a folder."""
        values = self.about("directory")
        text = json.dumps(values, indent=2, default=lambda number: number.item())
        (directory / METADATA_FILE).write_text(text)

    def about(self, *without: str) -> dict:
        """Return the attributes as a dictionary, without those named."""
        return {key: x for key, x in vars(self).items() if key not in without}

    @property
    def path(self) -> Path:
        """Path of the model's file."""
        return self.directory / self.file

    @property
    def is_keras(self) -> bool:
        """Whether it is a Keras model, not a `.tflite` file."""
        return self.file.endswith(".keras")

    def load(self) -> "keras.Model | Member":
        """Load the model: a `keras.Model`, or a `Member` that LiteRT runs."""
        if self.is_keras:
            return keras.saving.load_model(self.path, compile=False)
        return Member(self.path, name=self.name, from_logits=bool(self.from_logits))
