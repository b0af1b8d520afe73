"""Make models whose members are trained side by side by one `fit`."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import keras
import numpy as np

from keras_micronets.layers.side_by_side import SideBySide

__all__ = ["side_by_side"]


def side_by_side(
    build: Callable[..., keras.Model],
    n: int,
    *,
    seed: int | Sequence[int] | None = None,
    bootstrap: bool = False,
) -> SideBySide:
    """Return one Keras model of several independent members, trained by one `fit`.

    The members differ in their initial weights and train on the same batches, in one
    compiled step, by the sum of their losses: the result is that of separate fits. Add
    them to a pool with `LearnerCheckpoint`, which adds each as a learner.

    Args:
        build: Function without arguments that returns a new Keras model.
        n: Integer, the number of members.
        seed: Integer: member `i`, counted from 0, is built as after
            `keras.utils.set_random_seed(seed + i)`; or a sequence of `n` integers.
            `None` to draw one, which `keras.utils.set_random_seed` fixes. The state of
            Python's and NumPy's generators is left unchanged. Defaults to `None`.
        bootstrap: Boolean, whether each member sees its own resample of the training
            data (bagging): `fit` draws how often each sample counts for each member
            once, from the members' seeds, and gives the counts to the loss as sample
            weights. Defaults to `False`.

    Returns:
        A `layers.SideBySide` model; `members` is the list of its members.

    Raises:
        ValueError: If `n` is below 1, the number of seeds differs from `n`, or `build`
            returns the same model twice.

    Example:

    ```python
    def build():
        head = keras.layers.Dense(2, activation="softmax")
        return keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), head])

    joint = keras_micronets.side_by_side(build, 2, seed=0)
    joint.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    checkpoint = keras_micronets.callbacks.LearnerCheckpoint("pool", every=2)
    joint.fit(x, y, epochs=2, callbacks=[checkpoint])  # adds two learners
    ```

    Reference: Lakshminarayanan, Pritzel and Blundell 2017, "Simple and scalable
    predictive uncertainty estimation using deep ensembles"; Breiman 1996, "Bagging
    predictors".
    """
    seeds = _seeds(seed, n)
    members = []
    for one in seeds:
        with _seeded(one):
            members.append(build())
    return SideBySide(members, seeds=seeds, bootstrap=bootstrap)


def _seeds(seed, n):
    if n < 1:
        raise ValueError(f"Expected `n` to be 1 or more members. Received: n={n}.")
    if isinstance(seed, Sequence):
        return list(seed)
    first = random.randrange(2**31 - n) if seed is None else seed
    return [first + i for i in range(n)]


@contextmanager
def _seeded(seed) -> Iterator[None]:
    """Seed the generators that initialisers draw their seeds from."""
    states = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
