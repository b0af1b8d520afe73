from collections.abc import Callable

import numpy as np

from keras_micronets.export.tflite_model import TFLiteModel


def prefer_sparse(
    dense: bytes, convert: Callable[..., bytes], inputs: list[np.ndarray]
) -> tuple[bytes, str]:
    """Return a file that leaves zeros out, if it is sound and smaller.

    Args:
        dense: The file with all its zeros.
        convert: Function that takes `sparse=True` and returns the other file.
        inputs: Array `(samples, ...)` for each input, to compare the two on.

    Returns:
        The bytes of the file to take, and in words what happened.
    """
    try:
        sparse = convert(sparse=True)
        outputs = TFLiteModel(sparse, "the sparse file").run(inputs)
    except (ValueError, RuntimeError):
        return dense, "not kept: LiteRT does not run the sparse file"
    if len(sparse) >= len(dense):
        return dense, f"not kept: {len(sparse) - len(dense):,} bytes more"
    if not all(map(_agree, outputs, TFLiteModel(dense, "the file").run(inputs))):
        return dense, "not kept: the sparse file puts out something else"
    return sparse, f"kept: {len(dense) - len(sparse):,} bytes less"


def _agree(one, other):
    """Whether outputs differ by a step at most, or by the rounding of float sums."""
    difference = np.abs(one.astype("float64") - other)
    is_integer = np.issubdtype(other.dtype, np.integer)
    return difference.max() <= (1 if is_integer else 1e-4 * np.abs(other).max())
