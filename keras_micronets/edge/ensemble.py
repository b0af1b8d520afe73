"""What fits into memory."""

import math
import os
from collections.abc import Callable, Sequence

import numpy as np

from .bundle.integrity import read_verified
from .bundle.manifest import MemberEntry, TensorSpec
from .combine import combine
from .early_exit import ask_in_turn
from .member import Member
from .preprocessing import check_finite, check_samples

#: Bytes of arrays for each value of an input: ready for the members, and those of them
#: that an early exit still asks about; and for each thread, on its way to integers.
VALUE_BYTES, THREAD_BYTES = 9, 5


def samples_within(memory_limit: int, members: Sequence[Member], n_threads: int) -> int:
    """Return how many samples can be on their way at a time, besides the models.

    Args:
        memory_limit: Bytes for models and arrays.
        members: The models, of one input and one output shape.
        n_threads: How many of them run at a time.

    Raises:
        ValueError: If there is no room for the models and one sample.
    """
    models = sum(member.memory for member in members)
    values = math.prod(members[0].input_shape)
    answers = math.prod(members[0].output_shape)
    sample = values * (VALUE_BYTES + n_threads * THREAD_BYTES)
    sample += 4 * answers * (4 + 3 * len(members))
    if memory_limit < models + sample:
        raise ValueError(
            f"Expected a memory limit with room for {len(members)} models, {models:,} "
            f"bytes, and for one sample on its way through them, {sample:,} bytes; run "
            f"fewer members here, or smaller ones. Received: {memory_limit:,} bytes."
        )
    return (memory_limit - models) // sample


class Ensemble:
    """Hold the members of a bundle, loaded and checked. It never changes.

    Args:
        directory: The bundle, a folder or a `.zip`.
        places: Places in the manifest of the members to load. Defaults to `None`, all.
        memory_limit: Bytes for models and arrays. Defaults to `None`, no limit.
        n_threads: How many members will run at a time. Defaults to `1`.
        public_key: As for `EnsembleRunner`. Defaults to `None`.

    Attributes:
        manifest: The `Manifest` of the bundle, with all members.
        members: Tuple of `Member`, in the order asked for.

    Raises:
        ValueError: As `EnsembleRunner` does.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        places: Sequence[int] | None = None,
        *,
        memory_limit: int | None = None,
        n_threads: int = 1,
        public_key: str | os.PathLike | bytes | None = None,
    ):
        self.manifest, models = read_verified(directory, public_key=public_key)
        entries = _entries(self.manifest.members, places)
        self.members = tuple(_load(entry, models[entry.file]) for entry in entries)
        self._at_a_time = None
        if memory_limit is not None:
            n_threads = min(n_threads, len(self.members))
            self._at_a_time = samples_within(memory_limit, self.members, n_threads)

    @property
    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of an input and of an answer, without the batch."""
        return self.members[0].input_shape, self.members[0].output_shape

    def predict_members(self, x: np.ndarray, run: Callable = map) -> np.ndarray:
        """Return the probabilities of each member; `run` calls them as `map` does."""
        pieces = [self._predict_members(piece, run) for piece in self._pieces(x)]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=1)

    def predict(
        self, x: np.ndarray, run: Callable = map, *, early_exit: bool | None = None
    ) -> np.ndarray:
        """Return the combined probabilities, of all members or with early exit."""
        if self._exits_early(early_exit):
            return self.predict_early(x)[0]
        pieces = [self._predict(piece, run) for piece in self._pieces(x)]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def predict_early(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return what `predict` does, and how many members each sample took."""
        self._exits_early(True)
        pieces = [self._predict_early(piece) for piece in self._pieces(x)]
        if len(pieces) == 1:
            return pieces[0]
        return tuple(np.concatenate(parts) for parts in zip(*pieces, strict=True))

    def preprocess(self, x: np.ndarray) -> np.ndarray:
        """Return what the members take in, `float32`, for raw inputs `x`."""
        return self._preprocess(check_samples(x, self.members[0].input_shape))

    def _preprocess(self, x):
        check_finite(x)
        return self.manifest.preprocessing(x)

    def _predict_members(self, x, run):
        x = self._preprocess(x)
        return np.array([*run(lambda member: member.predict(x), self.members)])

    def _predict(self, x, run):
        how, members = self.manifest.combination, self._predict_members(x, run)
        return combine(members, rule=how.rule, weights=how.weights)

    def _predict_early(self, x):
        x, how = self._preprocess(x), self.manifest.combination
        return ask_in_turn(
            lambda place, rows: self.members[place].predict(x[rows]),
            len(x),
            self.manifest.early_exit,
            rule=how.rule,
            weights=how.weights,
        )

    def _pieces(self, x):
        x, size = check_samples(x, self.members[0].input_shape), self._at_a_time
        if size is None or len(x) <= size:
            return [x]
        return [x[start : start + size] for start in range(0, len(x), size)]

    def _exits_early(self, early_exit):
        manifest = self.manifest
        if len(self.members) != len(manifest.members):
            raise ValueError(
                f"Expected all {len(manifest.members)} members, to answer for the "
                f"ensemble; use `predict_members`. Received: {len(self.members)}."
            )
        has_one = manifest.early_exit is not None
        if early_exit and not has_one:
            raise ValueError(
                "Expected a bundle with an early exit; export it with "
                "`early_exit_data`, or ask all members. Received: early_exit=True."
            )
        return has_one if early_exit is None else early_exit


def tensor_specs(member: Member) -> tuple[TensorSpec, TensorSpec]:
    """Return what a model takes in and what it puts out."""
    return (
        TensorSpec(member.input_shape, member.input_dtype, *member.input_quantization),
        TensorSpec(
            member.output_shape, member.output_dtype, *member.output_quantization
        ),
    )


def _entries(entries, places):
    if places is None:
        return entries
    count = len(entries)
    if not (places and len({*places}) == len(places) and {*places} <= {*range(count)}):
        raise ValueError(
            f"Expected places of members out of 0 to {count - 1}, each once. "
            f"Received: members={list(places)}."
        )
    return [entries[place] for place in places]


def _load(entry: MemberEntry, data):
    member = Member(data, name=entry.name, from_logits=entry.from_logits)
    expected, received = (entry.input, entry.output), tensor_specs(member)
    if received != expected:
        raise ValueError(
            f"Expected the model {entry.file!r} to be as the manifest says: "
            f"{expected}. Received: {received}."
        )
    return member
