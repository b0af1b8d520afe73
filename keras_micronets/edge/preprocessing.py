"""Scale raw inputs for the members."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .tensors import map_inputs

__all__ = ["Preprocessing", "check_finite"]

#: A number, or one number per channel (the last axis).
Numbers = float | tuple[float, ...]


@dataclass(frozen=True)
class Preprocessing:
    """Turn raw inputs into inputs of the members: `(x - mean) / scale`.

    Args:
        mean: A number, or one number per channel (the last axis). For models of several
            inputs, either one number for all, or a dictionary by the inputs' names; an
            input that it does not name keeps the default. Defaults to `0.0`.
        scale: As `mean`; not zero. Defaults to `1.0`.

    Example:

    ```python
    from keras_micronets.edge import Preprocessing

    Preprocessing(mean=127.5, scale=127.5)(np.uint8([0, 255]))  # [-1., 1.]
    images = Preprocessing(mean={"image": 127.5}, scale={"image": 127.5})
    images({"image": np.uint8([[0, 255]]), "weather": np.float32([[21.5]])})
    ```
    """

    mean: dict[str, Numbers] | float | tuple[float, ...] = 0.0
    scale: dict[str, Numbers] | float | tuple[float, ...] = 1.0

    @classmethod
    def of(cls, value: "Preprocessing | Mapping[str, Any] | None") -> "Preprocessing":
        """Return an instance as it is, or one made from its arguments or `None`."""
        return value if isinstance(value, Preprocessing) else cls(**(value or {}))

    def __call__(self, x: Any) -> Any:
        return map_inputs(Preprocessing._scale, self.for_inputs(x), x)

    def for_inputs(self, inputs: Any) -> Any:
        """Return the preprocessing of each of several inputs, a dictionary by name.

        Args:
            inputs: Dictionary whose keys are the names of the inputs. Of anything else,
                as models of one input have, the preprocessing is returned itself.
        """
        if not isinstance(inputs, dict):
            return self
        return {
            name: Preprocessing(
                *(
                    value.get(name, default) if isinstance(value, dict) else value
                    for value, default in ((self.mean, 0.0), (self.scale, 1.0))
                )
            )
            for name in inputs
        }

    def check(self, input_shape: Any) -> None:
        """Raise a `ValueError` unless it suits inputs of these shapes without batch."""
        several = isinstance(input_shape, dict)
        for value in (self.mean, self.scale):
            if isinstance(value, dict) and not (several and {*value} <= {*input_shape}):
                raise ValueError(
                    "Expected preprocessing by the names of several inputs. Received: "
                    f"the names {[*value]} for inputs of shape {input_shape}."
                )
        map_inputs(Preprocessing._check, self.for_inputs(input_shape), input_shape)

    def inverse(self, x: Any) -> Any:
        """Return the raw inputs of which this preprocessing makes `x`."""

        def unscale(preprocessing, values):
            mean, scale = preprocessing._arrays
            return values * scale + mean

        return map_inputs(unscale, self.for_inputs(x), x)

    def _scale(self, x):
        mean, scale = self._arrays
        x = np.array(x, "float32")
        x -= mean
        x /= scale
        return x

    def _check(self, shape):
        mean, scale = self._arrays
        channels = shape[-1:]
        fits = mean.shape in ((), channels) and scale.shape in ((), channels)
        if not (fits and np.isfinite([*mean.flat, *scale.flat]).all() and scale.all()):
            raise ValueError(
                "Expected preprocessing whose mean and scale are finite numbers, or "
                f"one number per channel, for inputs of shape {shape}, and a "
                f"scale without zeros. Received: mean={self.mean}, scale={self.scale}."
            )

    @cached_property
    def _arrays(self):
        with np.errstate(over="ignore"):  # gives infinity, which `check` rejects
            return np.asarray(self.mean, "float32"), np.asarray(self.scale, "float32")


def check_finite(x: Any) -> None:
    """Raise a `ValueError` if raw inputs contain NaN or infinity."""

    def check(array):
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError("Expected finite inputs. Received: NaN or infinity.")

    map_inputs(check, x)
