"""The decorator that turns an order of learners into a selection method."""

import inspect
import re
from collections.abc import Callable, Iterable
from functools import wraps
from itertools import islice
from typing import Any, Concatenate, ParamSpec, Protocol

import numpy as np
from sklearn.utils import check_random_state

from keras_micronets.selection.candidates import Candidates
from keras_micronets.selection.selection import Selection
from keras_micronets.selection.validation import check_choice

__all__ = ["lowest", "ordering_method", "random_k", "rank", "top_k"]

Options = ParamSpec("Options")

# Sums of the same terms in another order differ by less, losses that matter by more.
_ROUNDING = 1e-12

_ARGS = """
    probabilities: Array of shape `(learners, samples, classes)`: what the learners
        predict on samples that they were not trained on.
    y: Labels, sparse or one-hot, see `as_labels`; or `Targets`.
    n_members: Integer, the number of learners to keep. Defaults to `4`."""
_RANDOM_STATE = """
    random_state: Ignored: the method is deterministic. Defaults to `None`."""
_COUNTS = """

It counts samples by their predicted classes: it needs a task with classes, and takes
no sample weights."""
_RETURNS = """Returns:
    A `Selection`. Ties between learners go to the more accurate one, so the order of
    the pool does not matter."""
_RAISES = """Raises:
    TypeError: If an integer is expected and something else is given.
    ValueError: If there are fewer learners than `n_members`, an option is out of
        range or unknown, or the data is invalid."""


class SelectionMethod(Protocol[Options]):
    """The signature of the selection methods that `ordering_method` makes."""

    __name__: str

    def __call__(
        self,
        probabilities: Any,
        y: Any,
        n_members: int = 4,
        *args: Options.args,
        **kwargs: Options.kwargs,
    ) -> Selection: ...


_COMMON = [*inspect.signature(SelectionMethod.__call__).parameters.values()][1:4]


def ordering_method(
    *, label: str | None = None, weighted: bool = False, counts: bool = False
) -> Callable[
    [Callable[Concatenate[Candidates, Options], Iterable[int]]],
    SelectionMethod[Options],
]:
    """Make a selection method of a function that orders candidates.

    The function takes `Candidates`, which are checked and sorted by accuracy, and
    options, and returns indices of candidates, the best first. The method takes
    probabilities, labels and `n_members` in place of the candidates and keeps the first
    `n_members` indices. It has the docstring of the function, which documents its
    options under `Args`, with the common sections added.

    Args:
        label: String, the `method` of the selection; options in braces are replaced by
            their values. Defaults to `None`, the name of the function.
        weighted: Boolean. Whether the function repeats indices and all of them count:
            the weight of a member is its share. Defaults to `False`, equal weights.
        counts: Boolean. Whether the function counts samples by their predicted classes.
            The method then rejects tasks without classes, and sample weights. Defaults
            to `False`.

    Returns:
        The decorator.

    Example:

    ```python
    @ordering_method()
    def by_loss(candidates, *, random_state=None):
        \"\"\"Keep the learners of lowest loss.\"\"\"
        return rank(-candidates.losses)

    by_loss(probabilities, y, n_members=2).indices
    ```
    """

    def decorate(
        order: Callable[Concatenate[Candidates, Options], Iterable[int]],
    ) -> SelectionMethod[Options]:
        signature = inspect.signature(order)

        @wraps(order)
        def method(
            probabilities: Any, y: Any, n_members: int = 4, **options: Any
        ) -> Selection:
            candidates = Candidates(probabilities, y, n_members)
            if counts:
                candidates.check_classes(weighted=False)
            bound = signature.bind(candidates, **options)
            bound.apply_defaults()
            indices = order(*bound.args, **bound.kwargs)
            if weighted:
                kept, shares = np.unique([*indices], return_counts=True)
            else:
                kept, shares = [*islice(indices, candidates.n_members)], None
            name = (label or order.__name__).format(**bound.arguments)
            return candidates.select(kept, weights=shares, method=name)

        options = [*signature.parameters.values()][1:]
        method.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[*_COMMON, *options], return_annotation=Selection
        )
        method.__doc__ = _complete(inspect.getdoc(order) or "", counts)
        return method  # type: ignore[return-value]

    return decorate


def rank(scores: np.ndarray) -> np.ndarray:
    """Return the indices of scores, the highest first; ties go to the lower index."""
    return np.argsort(-np.asarray(scores), kind="stable")


def lowest(values: np.ndarray) -> np.ndarray:
    """Return which values are the lowest, up to rounding.

    Args:
        values: Float array of shape `(candidates,)`, of the order of one.

    Returns:
        Boolean array of the same shape; its `argmax()` is the first lowest value.
    """
    return values <= values.min() + _ROUNDING


def _complete(doc: str, counts: bool) -> str:
    """Add the sections that all methods share to a docstring."""
    sections = re.split(r"\n\n(?=(?:Args|Example|Reference):)", doc)
    text, *own = sections
    if counts:
        text += _COUNTS
    titled = {section.partition(":")[0]: section for section in own}
    options = titled.get("Args", "").removeprefix("Args:\n")
    args = f"Args:{_ARGS}\n{options}".rstrip()
    if "random_state:" not in options:
        args += _RANDOM_STATE
    end = [titled[title] for title in ("Example", "Reference") if title in titled]
    return "\n\n".join([text, args, _RETURNS, _RAISES, *end])


@ordering_method(label="top_k by {by}")
def top_k(
    candidates: Candidates, *, by: str = "accuracy", random_state: Any = None
) -> Iterable[int]:
    """Keep the best learners, regardless of what they have in common (baseline).

    The cost is O(learners x samples x classes), that of scoring the learners.

    Args:
        by: `"accuracy"`, ties to the lower negative log-likelihood, or `"loss"`, the
            lower negative log-likelihood. Defaults to `"accuracy"`.

    Example:

    ```python
    top_k([[[0.4, 0.6]], [[0.9, 0.1]]], [0], n_members=1).indices  # array([1])
    ```
    """
    check_choice("by", by, ("accuracy", "loss"))
    return range(len(candidates)) if by == "accuracy" else rank(-candidates.losses)


@ordering_method()
def random_k(candidates: Candidates, *, random_state: Any = None) -> Iterable[int]:
    """Keep learners drawn at random (baseline).

    Args:
        random_state: Integer, `numpy.random.RandomState` or `None`, as in
            scikit-learn. Defaults to `None`, which differs from call to call.

    Example:

    ```python
    random_k(probabilities, y, n_members=4, random_state=0).indices
    ```
    """
    random = check_random_state(random_state)
    return random.choice(len(candidates), candidates.n_members, replace=False)
