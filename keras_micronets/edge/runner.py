"""A bundle, run on the device."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from .bundle.integrity import read_verified
from .bundle.manifest import MemberEntry, TensorSpec
from .combine import combine
from .member import Member


class EnsembleRunner:
    """Run the ensemble of a bundle.

    Every file is read once and checked against its hash before any model is loaded,
    from the bytes that were checked. The members run side by side on threads.

    Args:
        directory: The bundle, a folder or a `.zip`, as `write_bundle` left it.
        num_threads: How many members run at a time. Defaults to `None`: all, or
            as many as there are processors if these are fewer.
        members: Places in the manifest of the members to run, each once. Defaults to
            `None`: all, and only then is there an answer of the ensemble, `predict`.
        public_key: Path of an Ed25519 public key in PEM, or the bytes of one: a bundle
            that its owner did not sign is refused before anything in it is read or
            loaded. Defaults to `None`: signatures are not looked at.

    Attributes:
        manifest: The `Manifest` of the bundle, with all members.
        members: Tuple of `Member`, in the order asked for.
        class_names: Tuple of names, or `None`.

    Raises:
        ValueError: If the bundle is damaged, of another format, not signed as asked,
            or describes other models than it holds.

    Example:

    ```python
    with EnsembleRunner("bundle") as runner:
        probabilities = runner.predict(images)  # (samples, classes)
    ```
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        *,
        num_threads: int | None = None,
        members: Sequence[int] | None = None,
        public_key: str | os.PathLike | bytes | None = None,
    ):
        self.manifest, models = read_verified(directory, public_key=public_key)
        self.class_names = self.manifest.class_names
        entries = _entries(self.manifest.members, members)
        self.members = tuple(_load(entry, models[entry.file]) for entry in entries)
        workers = num_threads or min(len(self.members), os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="member")

    def predict(self, x: np.ndarray, *, parallel: bool = True) -> np.ndarray:
        """Return the ensemble's class probabilities.

        Args:
            x: Raw inputs of shape `(samples, *input_shape)`, integers or floats;
                they go through the preprocessing of the manifest here.
            parallel: Whether the members run on threads, or one after the other,
                with the same result. Defaults to `True`.

        Returns:
            `float32` array of shape `(samples, classes)`.

        Raises:
            ValueError: If `x` has another shape, or values that are not finite, or
                not all members are run here.
        """
        if len(self.members) != len(self.manifest.members):
            raise ValueError(
                f"Expected all {len(self.manifest.members)} members, to answer for the "
                f"ensemble; use `predict_members`. Received: {len(self.members)}."
            )
        how = self.manifest.combination
        members = self.predict_members(x, parallel=parallel)
        return combine(members, rule=how.rule, weights=how.weights)

    def predict_members(self, x: np.ndarray, *, parallel: bool = True) -> np.ndarray:
        """Return the class probabilities of every member.

        Args:
            x, parallel: As for `predict`.

        Returns:
            `float32` array of shape `(members, samples, classes)`.

        Raises:
            ValueError: As for `predict`.
        """
        x = self.preprocess(x)
        run = self._pool.map if parallel else map
        return np.stack([*run(lambda member: member.predict(x), self.members)])

    def preprocess(self, x: np.ndarray) -> np.ndarray:
        """Return what the members take in, `float32`, for raw inputs `x`."""
        x, shape = np.asarray(x), self.members[0].input_shape
        if x.ndim == 0 or x.shape[1:] != shape or x.dtype.kind not in "buif":
            raise ValueError(
                f"Expected numbers of shape (samples, {', '.join(map(str, shape))}). "
                f"Received: shape {x.shape}, dtype {x.dtype}."
            )
        if not np.isfinite(x).all():
            raise ValueError("Expected finite inputs. Received: NaN or infinity.")
        return self.manifest.preprocessing(x)

    def close(self) -> None:
        """Stop the threads; the runner predicts no more."""
        self._pool.shutdown()

    def __enter__(self) -> "EnsembleRunner":
        return self

    def __exit__(self, *_):
        self.close()


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
