"""Load the members of a bundle, and run them within a memory limit."""

import math
import os
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np

from .alarm import reconstruction_error
from .bundle.integrity import read_verified
from .bundle.manifest import MemberEntry
from .combine import combine
from .early_exit import EarlyExit, run_early_exit
from .member import Member
from .preprocessing import check_finite
from .tasks import spread
from .tensors import check_samples, count_samples, take_samples

__all__ = ["Ensemble", "max_samples"]

#: Bytes of arrays for each input value: the preprocessed samples and, with an early
#: exit, a copy of those not done; and in each thread, the values while quantised.
VALUE_BYTES, THREAD_BYTES = 9, 5


class Ensemble:
    """Hold the loaded members of one bundle; it is immutable.

    Args:
        path, public_key, num_threads, memory_limit: As for `EnsembleRunner`.
        indices: Indices in the manifest of the members to load. Defaults to `None`,
            all.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        indices: Sequence[int] | None = None,
        *,
        public_key: str | os.PathLike | bytes | None = None,
        num_threads: int = 1,
        memory_limit: int | None = None,
    ) -> None:
        self.manifest, models = read_verified(path, public_key=public_key)
        entries = _select(self.manifest.members, indices)
        self.members = tuple(
            _load(entry, models[entry.file], self.manifest.task) for entry in entries
        )
        self._max_samples = None
        if memory_limit is not None:
            num_threads = min(num_threads, len(self.members))
            self._max_samples = max_samples(memory_limit, self.members, num_threads)

    @property
    def shapes(self) -> tuple[Any, tuple[int, ...]]:
        """Shapes of an input, or of several by name, and of an output."""
        return self.members[0].input_shape, self.members[0].output_shape

    def predict_members(self, x: Any, run: Callable = map) -> np.ndarray:
        """Return the predictions of each member; `run` calls them as `map` does."""
        parts = [self._predict_members(part, run) for part in self._split(x)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def predict(
        self, x: Any, run: Callable = map, *, early_exit: bool | None = None
    ) -> np.ndarray:
        """Return the combined predictions, of all members or with early exit."""
        if self._exits_early(early_exit):
            return self.predict_early(x)[0]
        parts = [self._predict(part, run) for part in self._split(x)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def predict_early(self, x: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return early-exit probabilities, and the number of members run per sample."""
        self._exits_early(True)
        parts = [self._predict_early(part) for part in self._split(x)]
        if len(parts) == 1:
            return parts[0]
        probabilities, counts = zip(*parts, strict=True)
        return np.concatenate(probabilities), np.concatenate(counts)

    def score(self, x: Any, run: Callable = map) -> np.ndarray:
        """Return the error of each sample's reconstruction, `(samples,)`."""
        if self.manifest.task != "reconstruction":
            raise ValueError(
                "Expected a bundle of the task 'reconstruction' for scores. Received: "
                f"task={self.manifest.task!r}."
            )
        return reconstruction_error(self.preprocess(x), self.predict(x, run))

    def spread(self, x: Any, run: Callable = map) -> np.ndarray:
        """Return the standard deviation of the members' predictions, scaled."""
        combination = self.manifest.combination
        members, scale = self.predict_members(x, run), combination.spread_scale
        values = spread(members, combination.weights, task=combination.task)
        return values if scale is None else scale(values)

    def preprocess(self, x: Any) -> Any:
        """Return the inputs of the members, `float32`, for raw inputs `x`."""
        return self._preprocess(check_samples(x, self.members[0].input_shape))

    def _preprocess(self, x):
        check_finite(x)
        return self.manifest.preprocessing(x)

    def _predict_members(self, x, run):
        x = self._preprocess(x)
        return np.array([*run(lambda member: member.predict(x), self.members)])

    def _predict(self, x, run):
        members = self._predict_members(x, run)
        return combine(members, **self.manifest.combination.arguments)

    def _predict_early(self, x):
        x, early_exit = self._preprocess(x), cast("EarlyExit", self.manifest.early_exit)
        return run_early_exit(
            lambda index, rows: self.members[index].predict(take_samples(x, rows)),
            count_samples(x),
            early_exit,
            **self.manifest.combination.arguments,
        )

    def _split(self, x):
        x, size = check_samples(x, self.members[0].input_shape), self._max_samples
        count = count_samples(x)
        if size is None or count <= size:
            return [x]
        starts = range(0, count, size)
        return [take_samples(x, slice(start, start + size)) for start in starts]

    def _exits_early(self, early_exit):
        manifest = self.manifest
        if len(self.members) != len(manifest.members):
            raise ValueError(
                f"Expected all {len(manifest.members)} members for a prediction of the "
                "ensemble; use `predict_members` for some of them. "
                f"Received: {len(self.members)}."
            )
        has_one = manifest.early_exit is not None
        if early_exit and not has_one:
            raise ValueError(
                "Expected a bundle with an early exit; export it with "
                "`early_exit_data`, or run all members. Received: early_exit=True."
            )
        return has_one if early_exit is None else early_exit


def max_samples(memory_limit: int, members: Sequence[Member], num_threads: int) -> int:
    """Return the number of samples whose arrays fit into memory beside the models.

    Args:
        memory_limit: Bytes for models and arrays.
        members: The models, all with the same input and output shape.
        num_threads: Number of members that run at a time.
    """
    models = sum(member.memory for member in members)
    shapes = members[0].input_shape
    values = sum(
        map(math.prod, shapes.values() if isinstance(shapes, dict) else [shapes])
    )
    outputs = math.prod(members[0].output_shape)
    sample = values * (VALUE_BYTES + num_threads * THREAD_BYTES)
    sample += 4 * outputs * (4 + 3 * len(members))
    if memory_limit < models + sample:
        raise ValueError(
            f"Expected a memory limit with room for {len(members)} models, {models:,} "
            f"bytes, and the arrays of one sample, {sample:,} bytes; run fewer or "
            f"smaller members on this device. Received: {memory_limit:,} bytes."
        )
    return (memory_limit - models) // sample


def _select(entries, indices):
    if indices is None:
        return entries
    count = len(entries)
    is_set = indices and len({*indices}) == len(indices)
    if not (is_set and {*indices} <= {*range(count)}):
        raise ValueError(
            f"Expected distinct member indices from 0 to {count - 1}. "
            f"Received: members={list(indices)}."
        )
    return [entries[index] for index in indices]


def _load(entry: MemberEntry, data: bytes, task: str) -> Member:
    member = Member(data, name=entry.name, from_logits=entry.from_logits, task=task)
    expected, received = (entry.input, entry.output), (member.input, member.output)
    if received != expected:
        raise ValueError(
            f"Expected the tensors of {entry.file!r} to match the manifest: {expected}."
            f" Received: {received}."
        )
    return member
