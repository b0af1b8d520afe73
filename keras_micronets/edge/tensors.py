"""Integer steps and real values, logits and probabilities."""

import functools

import numpy as np


def check_samples(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return raw inputs as an array, if they are numbers of a shape.

    Args:
        x: Raw inputs, `(samples, *shape)`.
        shape: Shape of one.

    Raises:
        ValueError: If they are something else.
    """
    x = np.asarray(x)
    if x.ndim == 0 or x.shape[1:] != shape or x.dtype.kind not in "buif":
        raise ValueError(
            f"Expected numbers of shape (samples, {', '.join(map(str, shape))}). "
            f"Received: shape {x.shape}, dtype {x.dtype}."
        )
    return x


def check_finite(x: np.ndarray) -> None:
    """Raise a `ValueError` if raw inputs are NaN or infinite somewhere."""
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        raise ValueError("Expected finite inputs. Received: NaN or infinity.")


def quantize(
    x: np.ndarray, dtype: str, scale: float = 0.0, zero_point: int = 0
) -> np.ndarray:
    """Round real values to the integer steps of a tensor (half to even).

    Args:
        x: Real values of any shape.
        dtype: Dtype of the tensor; a float dtype is a plain cast.
        scale: Real value of one step. Defaults to `0.0`, not quantised.
        zero_point: Step that stands for zero. Defaults to `0`.

    Returns:
        Array of the shape of `x` and of `dtype`, clipped to its range.
    """
    if not scale:
        return x.astype(dtype)
    # In place, and not by the slower `np.clip`: for a single image this counts.
    steps = np.asarray(x / np.float32(scale))
    np.rint(steps, out=steps)
    steps += np.float32(zero_point)
    low, high = _limits(dtype)
    np.maximum(steps, low, out=steps)
    np.minimum(steps, high, out=steps)
    return steps.astype(dtype)


@functools.cache
def _limits(dtype):
    return np.float32(np.iinfo(dtype).min), np.float32(np.iinfo(dtype).max)


def dequantize(raw: np.ndarray, scale: float = 0.0, zero_point: int = 0) -> np.ndarray:
    """Return the real values, `float32`, of a tensor's integer steps."""
    values = raw.astype("float32")
    if scale:
        values -= zero_point
        values *= np.float32(scale)
    return values


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the softmax over the last axis."""
    values = logits - np.maximum.reduce(logits, axis=-1, keepdims=True)
    np.exp(values, out=values)
    values /= np.add.reduce(values, axis=-1, keepdims=True)
    return values


def normalize(outputs: np.ndarray, scale: float) -> np.ndarray:
    """Scale rows of rounded probabilities to sum to one.

    Args:
        outputs: Array of shape `(samples, classes)`.
        scale: Step that they were rounded to; 0 for not at all.
    """
    # Only what rounding explains is put right: anything further from one is no
    # row of probabilities, and whoever checks for that must still see it.
    total = outputs.sum(axis=-1, keepdims=True)
    rounded = (np.abs(total - 1) <= outputs.shape[-1] * scale) & (total > 0)
    return outputs / np.where(rounded, total, np.float32(1))
