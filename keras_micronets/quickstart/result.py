from dataclasses import asdict, dataclass

import numpy as np

from keras_micronets import selection
from keras_micronets.export.flatbuffer import gzip_size

__all__ = ["QuickstartResult", "Score", "score"]


@dataclass(frozen=True)
class Score:
    """A row of the result: the metrics of a model on the test data.

    Attributes:
        name: Name of the model.
        sparsity: Share of removed weights.
        accuracy: Share of correct predictions.
        nll: Negative log-likelihood, in nats.
        ece: Expected calibration error over 15 bins.
        n_bytes: Size of its `.tflite` files.
        gzip_bytes: Their size after gzip.
        latency: Milliseconds for one sample on this host; `None` if not measured.
    """

    name: str
    sparsity: float
    accuracy: float
    nll: float
    ece: float
    n_bytes: int
    gzip_bytes: int
    latency: float | None = None


def score(
    name: str,
    probabilities: np.ndarray,
    y: np.ndarray,
    *,
    contents: list[bytes],
    sparsity: float = 0.0,
    latency: float | None = None,
) -> Score:
    """Return the `Score` of predictions and of the files that made them.

    Args:
        probabilities: Array of shape `(samples, classes)`.
        y: Integer labels.
        contents: The bytes of each file.
        name, sparsity, latency: As in `Score`.
    """
    return Score(
        name=name,
        sparsity=float(sparsity),
        accuracy=float(selection.accuracy(probabilities, y)),
        nll=float(selection.negative_log_likelihood(probabilities, y)),
        ece=float(selection.expected_calibration_error(probabilities, y)),
        n_bytes=sum(map(len, contents)),
        gzip_bytes=sum(map(gzip_size, contents)),
        latency=latency,
    )


@dataclass(frozen=True)
class QuickstartResult:
    """The result of the quickstart; prints as a table.

    Attributes:
        problem: Name of the data.
        epochs: Epochs of the baseline, and of the one run that made the learners.
        seed: Seed of the run.
        n_learners: Number of learners in the pool.
        sparsities: Their sparsities.
        scores: A `Score` for the baseline, each member, and the ensemble before and
            after int8 quantisation.
        zip_bytes: Size of the models of the bundle as one zip.
        bundle: Path of the bundle.
    """

    problem: str
    epochs: int
    seed: int
    n_learners: int
    sparsities: tuple[float, ...]
    scores: tuple[Score, ...]
    zip_bytes: int
    bundle: str

    def to_json(self) -> dict:
        """Return the result as JSON values."""
        return asdict(self)

    def __str__(self):
        head = (
            f"{'test data, scored once':<28}{'sparsity':>9}{'accuracy':>9}{'NLL':>8}"
            f"{'ECE':>8}{'bytes':>11}{'gzip':>9}{'ms':>8}"
        )
        share = self.zip_bytes / self.scores[0].n_bytes
        foot = (
            f"The bundle's models as one zip: {self.zip_bytes:,} bytes, {share:.0%} of "
            f"the float32 baseline's file. Bundle: {self.bundle}"
        )
        return "\n".join([head, *map(_row, self.scores), "", foot])


def _row(row):
    latency = "" if row.latency is None else f"{row.latency:.3f}"
    return (
        f"{row.name:<28}{row.sparsity:>9.1%}{row.accuracy:>9.2%}{row.nll:>8.3f}"
        f"{row.ece:>8.3f}{row.n_bytes:>11,}{row.gzip_bytes:>9,}{latency:>8}"
    )
