"""What raw inputs go through before the members see them."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Preprocessing:
    """Turn raw inputs into what the members take: `(x - mean) / scale`.

    Args:
        mean: A number, or one a channel (the last axis). Defaults to `0.0`.
        scale: A number, or one a channel; never zero. Defaults to `1.0`.

    Example:

    ```python
    Preprocessing(mean=127.5, scale=127.5)(np.uint8([0, 255]))  # [-1., 1.]
    ```
    """

    mean: float | tuple[float, ...] = 0.0
    scale: float | tuple[float, ...] = 1.0

    @classmethod
    def of(cls, value: "Preprocessing | dict | None") -> "Preprocessing":
        """Return one that is given as it is, as its arguments, or not at all."""
        return value if isinstance(value, cls) else cls(**(value or {}))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        mean, scale = self._arrays
        x = np.array(x, "float32")
        x -= mean
        x /= scale
        return x

    def check(self, input_shape: tuple[int, ...]) -> None:
        """Raise a `ValueError` unless it suits inputs of a shape without batch."""
        mean, scale = self._arrays
        channels = input_shape[-1:]
        fits = mean.shape in ((), channels) and scale.shape in ((), channels)
        if not (fits and np.isfinite([*mean.flat, *scale.flat]).all() and scale.all()):
            raise ValueError(
                "Expected a mean and a scale of preprocessing that are finite numbers, "
                f"or one a channel, for inputs of shape {input_shape}, and a scale "
                f"without zeros. Received: mean={self.mean}, scale={self.scale}."
            )

    @cached_property
    def _arrays(self):
        with np.errstate(over="ignore"):  # infinity, which `check` refuses
            return np.asarray(self.mean, "float32"), np.asarray(self.scale, "float32")


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
