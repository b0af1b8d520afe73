"""Run the ensemble of a bundle on this device."""

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from .bundle.manifest import Manifest
from .ensemble import Ensemble
from .member import Member
from .tensors import zero_samples

__all__ = ["EnsembleRunner"]


class EnsembleRunner:
    """Run the ensemble of a bundle.

    Each file is read once, and its bytes are checked against the manifest's hash before
    a model is loaded from them. The members run in parallel on threads. Several threads
    may use one runner.

    Args:
        path: The bundle that `write_bundle` exported, a folder or a `.zip`.
        members: Indices in the manifest of the members to run, each once. Defaults to
            `None`, all; only then are the ensemble's own predictions available.
        public_key: Path of an Ed25519 public key in PEM, or its bytes. The bundle, and
            any later one that `reload` reads, is rejected unless the key's owner signed
            it. Defaults to `None`: signatures are ignored.
        num_threads: Number of members that run at a time. Defaults to `None`: all, or
            the number of processors if that is smaller.
        memory_limit: Bytes for the models and the arrays of one call together; many
            samples are processed in parts. Inputs and outputs are not counted, nor are
            Python, NumPy and LiteRT themselves, about 50 MB. `reload` briefly holds two
            bundles. Defaults to `None`, no limit.
        warm_up: Whether to run an input of zeros once, so that the first prediction
            takes no longer than others. Defaults to `False`.

    Attributes:
        manifest: The `Manifest` of the bundle, with all members.
        members: Tuple of `Member`, in the order requested.
        class_names: Tuple of names, or `None`.

    Raises:
        ValueError: If the bundle is damaged, has another format, is not signed as
            required, contains models that its manifest does not describe, or does not
            fit into the memory.

    Example:

    ```python
    from keras_micronets.edge import EnsembleRunner

    with EnsembleRunner("bundle") as runner:
        images = np.zeros((1, *runner.members[0].input_shape), "float32")
        probabilities = runner.predict(images)  # (samples, classes)
    ```
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        members: Sequence[int] | None = None,
        public_key: str | os.PathLike | bytes | None = None,
        num_threads: int | None = None,
        memory_limit: int | None = None,
        warm_up: bool = False,
    ) -> None:
        self._num_threads = num_threads or os.cpu_count() or 1
        self._path = path
        self._load = partial(
            Ensemble,
            indices=members,
            public_key=public_key,
            num_threads=self._num_threads,
            memory_limit=memory_limit,
        )
        self._ensemble = self._load(path)
        if warm_up:
            _warm_up(self._ensemble)
        self._reloading, self._closed = threading.Lock(), False
        self._pool = ThreadPoolExecutor(self._num_threads, thread_name_prefix="member")

    @property
    def manifest(self) -> Manifest:
        return self._ensemble.manifest

    @property
    def members(self) -> tuple[Member, ...]:
        return self._ensemble.members

    @property
    def class_names(self) -> tuple[str, ...] | None:
        return self._ensemble.manifest.class_names

    def predict(
        self, x: Any, *, parallel: bool = True, early_exit: bool | None = None
    ) -> np.ndarray:
        """Return the ensemble's predictions: class probabilities, or numbers.

        Args:
            x: Raw inputs of shape `(samples, *input_shape)`, integers or floats; for
                several inputs a dictionary of arrays by their names, or a list in
                their order. The preprocessing of the manifest is applied to them.
            parallel: Whether the members run on threads or one after the other; the
                result is the same. Defaults to `True`.
            early_exit: Whether members run one after the other, in the order of the
                manifest's early exit, until each sample is done. This saves work; for
                a single input, threads on several processors may be faster. Defaults
                to `None`: if the manifest has an early exit.

        Returns:
            `float32` array of shape `(samples, *output_shape)`.

        Raises:
            ValueError: If `x` has another shape or non-finite values, only some
                members are loaded, an early exit is requested and there is none, or
                the runner is closed.
        """
        run = self._map if parallel else map
        return self._open().predict(x, run, early_exit=early_exit)

    def predict_early(self, x: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return the probabilities with early exit, and the number of members run.

        Returns:
            `float32` array of shape `(samples, classes)`, for each sample the
            combination of the members that were run, and an integer array of shape
            `(samples,)`, their number.
        """
        return self._open().predict_early(x)

    def predict_members(self, x: Any, *, parallel: bool = True) -> np.ndarray:
        """Return the predictions of every member, arguments as for `predict`.

        The temperature of the bundle scales their combination, not the members.

        Returns:
            `float32` array of shape `(members, samples, *output_shape)`.
        """
        return self._open().predict_members(x, self._map if parallel else map)

    def spread(self, x: Any) -> np.ndarray:
        """Return the standard deviation of the members' predictions, see `edge.spread`.

        With an `edge.SpreadScale` it estimates that of the error of `predict`.

        Returns:
            Array of shape `(samples, *output_shape)`; for the task
            `"reconstruction"` `(samples,)`.
        """
        return self._open().spread(x, self._map)

    def score(self, x: Any) -> np.ndarray:
        """Return the mean squared error of each sample's reconstruction.

        Returns:
            Array of shape `(samples,)`. Samples with a score above
            `manifest.alarm.threshold` are anomalies.

        Raises:
            ValueError: If the bundle is not of the task `"reconstruction"`.
        """
        return self._open().score(x, self._map)

    def preprocess(self, x: Any) -> Any:
        """Return the inputs of the members, `float32`, for raw inputs `x`."""
        return self._open().preprocess(x)

    def reload(self, path: str | os.PathLike | None = None) -> None:
        """Replace the bundle without an interruption.

        The new bundle is read, checked and run once before it replaces the old one.
        Predictions in progress finish on the old one; later ones use the new one.

        Args:
            path: The new bundle. Defaults to `None`, the path of the current one.

        Raises:
            ValueError: As for the constructor, if the shape of inputs or outputs
                differs, or the runner is closed. The old bundle then stays in use.
        """
        self._open()
        with self._reloading:
            path = self._path if path is None else path
            new = self._load(path)
            if new.shapes != self._ensemble.shapes:
                raise ValueError(
                    "Expected a bundle with inputs and outputs of the same shapes as "
                    f"before, {self._ensemble.shapes}; for others create another "
                    f"runner. Received: {path}, with {new.shapes}."
                )
            _warm_up(new)
            self._path, self._ensemble = path, new

    def close(self) -> None:
        """Stop the threads, once the predictions in progress are done.

        Later predictions raise a `ValueError`.
        """
        self._closed = True
        self._pool.shutdown()

    def __enter__(self) -> "EnsembleRunner":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _open(self):
        if self._closed:
            raise ValueError(
                "Expected an open runner; create another EnsembleRunner. "
                f"Received: a closed one, of {self._path}."
            )
        return self._ensemble

    def _map(self, function: Callable, members: Sequence) -> list:
        """Return `[*map(function, members)]`, run on this thread and on helpers."""
        n_helpers = min(self._num_threads, len(members)) - 1
        if not n_helpers:
            return [*map(function, members)]
        results, left = [None] * len(members), deque(enumerate(members))

        def work():
            while left:
                try:
                    index, member = left.popleft()
                except IndexError:  # another thread was faster
                    return
                results[index] = function(member)

        futures = []
        with contextlib.suppress(RuntimeError):  # closed meanwhile: no more helpers
            for _ in range(n_helpers):
                futures.append(self._pool.submit(work))
        try:
            work()
        finally:
            # A helper that has not started has nothing left to do.
            for future in futures:
                if not future.cancel():
                    future.result()
        return results


def _warm_up(ensemble):
    ensemble.predict_members(zero_samples(ensemble.shapes[0], 1))
