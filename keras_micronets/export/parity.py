from dataclasses import dataclass

import numpy as np

from keras_micronets.export.tflite_model import TensorInfo


@dataclass(frozen=True)
class Parity:
    """How one output of a file compares with that of the Keras model.

    Attributes:
        name: Name of the output in Keras.
        largest_difference: Largest difference, in quantisation steps for an integer
            output and in real units for a float one.
        share_within_one_step: Share of the values that differ by one step at most;
            `None` for a float output.
        top1_agreement: Share of the samples whose largest value is at the same
            place of the last axis.
    """

    name: str
    largest_difference: float
    share_within_one_step: float | None
    top1_agreement: float

    def __str__(self):
        unit = "" if self.share_within_one_step is None else " steps"
        return (
            f"largest difference {self.largest_difference:.3g}{unit}, "
            f"same class in {self.top1_agreement:.1%}"
        )


def compare(
    name: str, output: TensorInfo, raw: np.ndarray, expected: np.ndarray
) -> Parity:
    """Compare what a file puts out with what Keras does.

    Args:
        name: Name of the output.
        output: What the file says of it.
        raw: Array of the file's output, in its own dtype.
        expected: Array of the same shape, real values from Keras.

    Raises:
        ValueError: If `raw` is not finite.
    """
    if not np.isfinite(raw).all():
        raise ValueError(
            "Expected finite outputs from the exported file. Received: "
            f"{np.sum(~np.isfinite(raw))} that are not, for output {name!r}. Look at "
            "the model's weights, and at what it predicts in Keras."
        )
    rounded = output.quantize(expected)
    difference = np.abs(raw.astype("float64") - rounded)
    is_integer = np.issubdtype(raw.dtype, np.integer)
    return Parity(
        name=name,
        largest_difference=float(difference.max()),
        share_within_one_step=float(np.mean(difference <= 1)) if is_integer else None,
        top1_agreement=float(np.mean(raw.argmax(-1) == rounded.argmax(-1))),
    )
