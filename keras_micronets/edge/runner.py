"""A bundle, run on the device."""

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from .bundle.manifest import Manifest
from .ensemble import Ensemble
from .member import Member


class EnsembleRunner:
    """Run the ensemble of a bundle.

    Every file is read once and checked against its hash before any model is loaded,
    from the bytes that were checked. The members run side by side on threads. A runner
    may be used by several threads at a time.

    Args:
        directory: The bundle, a folder or a `.zip`, as `write_bundle` left it.
        num_threads: How many members run at a time. Defaults to `None`: all, or
            as many as there are processors if these are fewer.
        members: Places in the manifest of the members to run, each once. Defaults to
            `None`: all, and only then is there an answer of the ensemble, `predict`.
        memory_limit: Bytes that the models, and the arrays of one call, may take
            together: many samples go through in pieces. Inputs and answers are not
            counted, nor are Python, NumPy and LiteRT themselves, some 50 MB. `reload`
            holds two bundles for a moment. Defaults to `None`, no limit.
        warm_up: Whether to run an input of zeros once, so that the first answer takes
            no longer than others. Defaults to `False`.
        public_key: Path of an Ed25519 public key in PEM, or the bytes of one: a bundle
            that its owner did not sign is refused before anything in it is read or
            loaded, by `reload` as well. Defaults to `None`: signatures are not looked
            at.

    Attributes:
        manifest: The `Manifest` of the bundle, with all members.
        members: Tuple of `Member`, in the order asked for.
        class_names: Tuple of names, or `None`.

    Raises:
        ValueError: If the bundle is damaged, of another format, not signed as asked,
            describes other models than it holds, or does not fit into the memory.

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
        memory_limit: int | None = None,
        warm_up: bool = False,
        public_key: str | os.PathLike | bytes | None = None,
    ):
        self._n_threads = num_threads or os.cpu_count() or 1
        self._directory = directory
        self._load = partial(
            Ensemble,
            places=members,
            memory_limit=memory_limit,
            n_threads=self._n_threads,
            public_key=public_key,
        )
        self._ensemble = self._load(directory)
        if warm_up:
            _warm_up(self._ensemble)
        self._reloading = threading.Lock()
        self._pool = ThreadPoolExecutor(self._n_threads, thread_name_prefix="member")

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
        self, x: np.ndarray, *, parallel: bool = True, early_exit: bool | None = None
    ) -> np.ndarray:
        """Return the ensemble's class probabilities.

        Args:
            x: Raw inputs of shape `(samples, *input_shape)`, integers or floats;
                they go through the preprocessing of the manifest here.
            parallel: Whether the members run on threads, or one after the other,
                with the same result. Defaults to `True`.
            early_exit: Whether members are asked one after the other, as the manifest
                says, and only until the answer is sure enough. This saves work; for a
                single input, members on several processors may be faster. Defaults to
                `None`: if the manifest has an early exit.

        Returns:
            `float32` array of shape `(samples, classes)`.

        Raises:
            ValueError: If `x` has another shape, or values that are not finite, or
                not all members are run here, or the manifest has no early exit.
        """
        run = self._map if parallel else map
        return self._ensemble.predict(x, run, early_exit=early_exit)

    def predict_early(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the probabilities with early exit, and how many members they took.

        Args:
            x: As for `predict`.

        Returns:
            `float32` array of shape `(samples, classes)`, of each sample the
            combination of the members that were asked, and an integer array of shape
            `(samples,)`, how many these are.

        Raises:
            ValueError: As for `predict`.
        """
        return self._ensemble.predict_early(x)

    def predict_members(self, x: np.ndarray, *, parallel: bool = True) -> np.ndarray:
        """Return the class probabilities of every member.

        Args:
            x, parallel: As for `predict`.

        Returns:
            `float32` array of shape `(members, samples, classes)`.

        Raises:
            ValueError: As for `predict`.
        """
        return self._ensemble.predict_members(x, self._map if parallel else map)

    def preprocess(self, x: np.ndarray) -> np.ndarray:
        """Return what the members take in, `float32`, for raw inputs `x`."""
        return self._ensemble.preprocess(x)

    def reload(self, directory: str | os.PathLike | None = None) -> None:
        """Put another bundle into service, without stopping.

        The new bundle is read, checked and run once beside the old one. Then they are
        swapped: predictions under way finish on the old one, later ones take the new.

        Args:
            directory: The new bundle. Defaults to `None`: what is now at the path of
                the present one.

        Raises:
            ValueError: As for the constructor, or if inputs or classes are others than
                before. The old bundle then stays in service.
        """
        with self._reloading:
            directory = self._directory if directory is None else directory
            new = self._load(directory)
            if new.shapes != self._ensemble.shapes:
                raise ValueError(
                    "Expected a bundle with inputs and outputs of the same shapes as "
                    f"before, {self._ensemble.shapes}; for others start another runner."
                    f" Received: {directory}, with {new.shapes}."
                )
            _warm_up(new)
            self._directory, self._ensemble = directory, new

    def close(self) -> None:
        """Stop the threads; the runner predicts no more."""
        self._pool.shutdown()

    def __enter__(self) -> "EnsembleRunner":
        return self

    def __exit__(self, *_):
        self.close()

    def _map(self, function: Callable, members: Sequence) -> list:
        """Return `[*map(function, members)]`, on the threads; this is one of them."""
        helpers = min(self._n_threads, len(members)) - 1
        if not helpers:
            return [*map(function, members)]
        answers, left = [None] * len(members), deque(enumerate(members))

        def work():
            while left:
                try:
                    place, member = left.popleft()
                except IndexError:  # another thread was faster
                    return
                answers[place] = function(member)

        futures = [self._pool.submit(work) for _ in range(helpers)]
        try:
            work()
        finally:
            # A helper that has not begun has nothing left to do.
            for future in futures:
                if not future.cancel():
                    future.result()
        return answers


def _warm_up(ensemble):
    ensemble.predict_members(np.zeros((1, *ensemble.shapes[0]), "float32"))
