"""Predict the times of operators from a table that a device has measured."""

import functools
import itertools
import json
import os
import tempfile
from pathlib import Path
from typing import Self

import numpy as np
from scipy.optimize import nnls

from keras_micronets.edge.operators import COLUMNS, OPERATORS, time_operators

__all__ = ["OperatorTimes", "held_out_error", "read_table", "terms_of"]

# Kernels compute blocks of positions, inputs and outputs at a time; the sizes depend on
# the processor. These are tried.
BLOCKS = (1, 4, 5, 6, 7, 8), (1, 4, 8), (1, 4, 8, 16, 32)


class OperatorTimes:
    """Predict times of int8 operators in milliseconds.

    For each type of operator, a sum of products of its sizes, with coefficients that
    are not negative, is fitted to the table with the least relative error. Positions
    and channels are rounded up to blocks, whose sizes are those of the lowest error on
    rows that a fit has not seen.

    Args:
        path: The file that `time_operators`, or `bench --operators`, has written.

    Attributes:
        overhead: Milliseconds to start a model, which each time in the table includes.

    Raises:
        ValueError: If the file is another one.
    """

    def __init__(self, path: str | os.PathLike):
        table = read_table(path)
        self.overhead = min(float(times.min()) for _, times in table.values())
        self._fits = {name: _fit(*rows) for name, rows in table.items()}

    @classmethod
    @functools.cache
    def of_this_machine(cls) -> Self:
        """Measure the operators on this machine, once in each process."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "operators.json"
            time_operators(path)
            return cls(path)

    def __call__(
        self, operator: str, sizes: np.ndarray, *, in_blocks: bool = True
    ) -> np.ndarray:
        """Return the times of operators of a type, without `overhead`.

        Args:
            operator: LiteRT's name of the type.
            sizes: Float array `(..., 5)`, for each operator its `COLUMNS`.
            in_blocks: Boolean, whether to round sizes up to blocks. Without, times
                change smoothly with them. Defaults to `True`.
        """
        blocks, coefficients = self._fits[operator]
        terms = terms_of(sizes, blocks if in_blocks else (1, 1, 1))
        return np.maximum(terms @ coefficients - self.overhead, 0)


def read_table(path: str | os.PathLike) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the sizes `(rows, 5)` and the times `(rows,)` by operator."""
    try:
        table = json.loads(Path(path).read_text(encoding="utf-8"))
        if table["columns"] != ["operator", *COLUMNS, "milliseconds"]:
            raise ValueError(f"it has the columns {table['columns']}")
        names = np.array([row[0] for row in table["rows"]])
        if missing := OPERATORS.keys() - set(names.tolist()):
            raise ValueError(f"it has no times of {', '.join(sorted(missing))}")
        values = np.array([row[1:] for row in table["rows"]], float)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            "Expected a file that `python bundle bench --operators` has written. "
            f"Received: {os.fspath(path)!r}: {error}."
        ) from error
    rows = {name: values[names == name] for name in dict.fromkeys(names.tolist())}
    return {name: (x[:, :-1], x[:, -1]) for name, x in rows.items()}


def _fit(sizes, times):
    """Return the best blocks and their coefficients."""
    choices = [(terms_of(sizes, x), x) for x in itertools.product(*BLOCKS)]
    errors = [held_out_error(terms, times) for terms, _ in choices]
    terms, blocks = choices[int(np.argmin(errors))]
    return blocks, _coefficients(terms, times)


def held_out_error(terms: np.ndarray, times: np.ndarray) -> float:
    """Return the mean relative error on each half of the rows of a fit to the other."""
    predicted, is_even = np.zeros(len(times)), np.arange(len(times)) % 2 == 0
    for seen in (is_even, ~is_even):
        predicted[~seen] = terms[~seen] @ _coefficients(terms[seen], times[seen])
    return float(np.mean(np.abs(predicted / times - 1)))


def _coefficients(terms, times):
    relative = terms / times[:, None]
    scales = np.maximum(relative.max(axis=0), 1e-12)
    return nnls(relative / scales, np.ones(len(times)), maxiter=1000)[0] / scales


def terms_of(sizes: np.ndarray, blocks: tuple[int, int, int]) -> np.ndarray:
    """Return what the times of operators are sums of: `(..., terms)`."""
    sizes = np.moveaxis(np.asarray(sizes, float), -1, 0)
    read, positions, taps, inputs, outputs = sizes
    rows, inputs, outputs = (
        np.ceil(n / block) * block
        for n, block in zip((positions, inputs, outputs), blocks, strict=True)
    )
    rows = np.where(positions == 1, 1, rows)
    terms = (
        *(np.ones_like(read), rows * taps * inputs * outputs, taps * inputs * outputs),
        *(rows * taps * inputs, rows * taps * outputs, positions * outputs),
        *(read * inputs, read * outputs, positions * taps, positions, outputs),
    )
    return np.stack(terms, axis=-1)
