from dataclasses import dataclass

import numpy as np

from keras_micronets import selection
from keras_micronets.export.size import gzip_size


@dataclass(frozen=True)
class Score:
    """One row of the result: a model on the test data.

    Attributes:
        name: What it is.
        sparsity: Share of weights removed.
        accuracy: Share of samples classified right.
        nll: Negative log-likelihood, in nats.
        ece: Expected calibration error over 15 bins.
        n_bytes: Bytes of its `.tflite` files.
        gzip_bytes: Bytes of them after gzip.
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
    """Score predictions on test data, and weigh the files that made them.

    Args:
        name: What is scored.
        probabilities: Array of shape `(samples, classes)`.
        y: Labels.
        contents: The bytes of the files.
        sparsity: Float. Defaults to `0.0`.
        latency: Milliseconds for one sample. Defaults to `None`.
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
