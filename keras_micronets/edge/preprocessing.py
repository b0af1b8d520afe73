"""Check raw inputs, and scale them for the members."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

__all__ = ["Preprocessing", "check_finite", "check_samples"]


@dataclass(frozen=True)
class Preprocessing:
    """Turn raw inputs into inputs of the members: `(x - mean) / scale`.

    Args:
        mean: A number, or one number per channel (the last axis). Defaults to `0.0`.
        scale: A number, or one number per channel; not zero. Defaults to `1.0`.

    Example:

    ```python
    from keras_micronets.edge import Preprocessing

    Preprocessing(mean=127.5, scale=127.5)(np.uint8([0, 255]))  # [-1., 1.]
    ```
    """

    mean: float | tuple[float, ...] = 0.0
    scale: float | tuple[float, ...] = 1.0

    @classmethod
    def of(cls, value: "Preprocessing | Mapping[str, Any] | None") -> "Preprocessing":
        """Return an instance as it is, or one made from its arguments or `None`."""
        return value if isinstance(value, Preprocessing) else cls(**(value or {}))

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
                "Expected preprocessing whose mean and scale are finite numbers, or "
                f"one number per channel, for inputs of shape {input_shape}, and a "
                f"scale without zeros. Received: mean={self.mean}, scale={self.scale}."
            )

    @cached_property
    def _arrays(self):
        with np.errstate(over="ignore"):  # gives infinity, which `check` rejects
            return np.asarray(self.mean, "float32"), np.asarray(self.scale, "float32")


def check_samples(x: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Return raw inputs as an array, if they are numbers of shape `(samples, *shape)`.

    Raises:
        ValueError: If they are not.
    """
    x = np.asarray(x)
    if x.ndim == 0 or x.shape[1:] != shape or x.dtype.kind not in "buif":
        raise ValueError(
            f"Expected numbers of shape (samples, {', '.join(map(str, shape))}). "
            f"Received: shape {x.shape}, dtype {x.dtype}."
        )
    return x


def check_finite(x: np.ndarray) -> None:
    """Raise a `ValueError` if raw inputs contain NaN or infinity."""
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        raise ValueError("Expected finite inputs. Received: NaN or infinity.")
