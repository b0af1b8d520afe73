"""A bundle, run on the device."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from .combine import combine
from .integrity import verify
from .member import Member


class EnsembleRunner:
    """Run the ensemble of a bundle.

    Every file is checked against its hash before any model is loaded. The members
    run side by side on threads.

    Args:
        directory: The bundle, as `write_bundle` left it.
        num_threads: How many members run at a time. Defaults to `None`: all, or
            as many as there are processors if these are fewer.

    Attributes:
        manifest: The `Manifest` of the bundle.
        members: Tuple of `Member`, in the manifest's order.
        class_names: Tuple of names, or `None`.

    Raises:
        ValueError: If the bundle is damaged, or of another format.

    Example:

    ```python
    with EnsembleRunner("bundle") as runner:
        probabilities = runner.predict(images)  # (samples, classes)
    ```
    """

    def __init__(self, directory: str | os.PathLike, *, num_threads: int | None = None):
        self.manifest = verify(directory)
        self.class_names = self.manifest.class_names
        self.members = tuple(
            Member(Path(directory) / m.file, name=m.name, from_logits=m.from_logits)
            for m in self.manifest.members
        )
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
            ValueError: If `x` has another shape, or values that are not finite.
        """
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
