"""Make models whose members are trained side by side by one `fit`."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import keras
import numpy as np

from keras_micronets.channels import count_macs
from keras_micronets.layers.side_by_side import SideBySide

__all__ = ["side_by_side"]


def side_by_side(
    build: Callable[..., keras.Model],
    n: int,
    *,
    width: float | str | None = None,
    seed: int | Sequence[int] | None = None,
    bootstrap: bool = False,
) -> SideBySide:
    """Return one Keras model of several independent members, trained by one `fit`.

    The members differ in their initial weights and train on the same batches, in one
    compiled step, by the sum of their losses: the result is that of separate fits. Add
    them to a pool with `LearnerCheckpoint`, which adds each as a learner.

    Args:
        build: Function that returns a new Keras model; without arguments, or, with
            `width`, of the width: the factor of its numbers of channels and units.
        n: Integer, the number of members.
        width: Float, the width of each member; or `"equal"` for the largest one, in
            steps of 0.01, at which all members together have at most the parameters
            and multiply-accumulates of `build(1.0)`: about 0.7 for two convolutional
            networks, 0.5 for four. `None` to call `build` without arguments. Defaults
            to `None`.
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
        ValueError: If `n` is below 1, the number of seeds differs from `n`, `build`
            returns the same model twice, or `width="equal"` finds no width: the model
            has no graph or open input sizes, or is too small.

    Example:

    ```python
    def build(width):
        return keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                keras.layers.Conv2D(round(32 * width), 3, activation="relu"),
                keras.layers.Flatten(),
                keras.layers.Dense(2, activation="softmax"),
            ]
        )

    joint = keras_micronets.side_by_side(build, 2, width="equal", seed=0)
    joint.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    checkpoint = keras_micronets.callbacks.LearnerCheckpoint("pool", every=2)
    joint.fit(x, y, epochs=2, callbacks=[checkpoint])  # adds two learners
    ```

    Reference: Lakshminarayanan, Pritzel and Blundell 2017, "Simple and scalable
    predictive uncertainty estimation using deep ensembles"; Breiman 1996, "Bagging
    predictors".
    """
    seeds, members = _seeds(seed, n), []
    if width == "equal":
        width = _equal_width(build, n)
    _check_width(width)
    for one in seeds:
        with _seeded(one):
            members.append(build() if width is None else build(width))
    return SideBySide(members, seeds=seeds, bootstrap=bootstrap)


def _equal_width(build, n):
    """Return the largest width at which `n` members cost at most one full model."""
    full = _size(build, 1.0)
    low, high = 0, 100  # in hundredths; the first fits, the second may
    while low < high:
        middle = (low + high + 1) // 2
        sizes = zip(_size(build, middle / 100), full, strict=True)
        if all(n * size <= limit for size, limit in sizes):
            low = middle
        else:
            high = middle - 1
    if low == 0:
        raise ValueError(
            f"Expected `build` to return a model of which {n} narrow ones have at most "
            "the parameters and multiply-accumulates of `build(1.0)`. Received: one "
            f"with {full[0]:,} parameters and {full[1]:,} multiply-accumulates, of "
            "which none does. Use fewer members, or give `width` as a number."
        )
    return low / 100


def _size(build, width):
    with _seeded(0):
        model = build(width)
    return model.count_params(), count_macs(model)


def _check_width(width):
    if not (width is None or (isinstance(width, int | float) and width > 0)):
        raise ValueError(
            "Expected `width` to be a positive number, 'equal' or `None`. "
            f"Received: width={width!r}."
        )


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
