"""The loss of the mean probability of members, with one more or one less of them."""

from collections.abc import Callable

import numpy as np

from keras_micronets.selection.candidates import Candidates

# Numbers that are looked at together; more do not fit into a processor's cache.
_BLOCK = 2**17


class _Mean:
    """The sum of what some candidates predict, to which candidates can be added.

    Args:
        found: `Candidates`.
        shape: Tuple. The shape of what a candidate predicts.
    """

    def __init__(self, found: Candidates, shape: tuple[int, ...]):
        self._found = found
        self._total = np.zeros(shape)
        self._count = 0

    def add(self, place: int, sign: int = 1) -> None:
        """Add a candidate, or take one away if `sign` is `-1`."""
        self._total += sign * self._terms(place)
        self._count += sign

    def losses(self, places: np.ndarray, sign: int = 1) -> np.ndarray:
        """Return the loss with each of the candidates, or without each if it is there.

        Args:
            places: Integer array of shape `(candidates,)`.
            sign: `1`, each added, or `-1`, each taken away. Defaults to `1`.

        Returns:
            Float array of shape `(candidates,)`.
        """
        losses, loss = np.empty(len(places)), self._loss(sign)
        length = max(1, _BLOCK // self._total.size)
        for start in range(0, len(places), length):
            part = slice(start, start + length)
            losses[part] = loss(self._terms(places[part]))
        return losses


class _MeanLikelihood(_Mean):
    def __init__(self, found: Candidates):
        super().__init__(found, (found.n_samples,))

    def _terms(self, places: np.ndarray) -> np.ndarray:
        return self._found.likelihoods[places]

    def _loss(self, sign: int) -> Callable:
        def loss(terms: np.ndarray) -> np.ndarray:
            mean = (self._total + sign * terms) / (self._count + sign)
            return -np.log(mean, out=mean).mean(axis=1)

        return loss


class _MeanProbability(_Mean):
    def __init__(self, found: Candidates):
        super().__init__(found, (found.n_samples, found.n_classes))

    def _terms(self, places: np.ndarray) -> np.ndarray:
        return self._found.probabilities(places)

    def _loss(self, sign: int) -> Callable:
        margins = self._margins()
        # One candidate moves a margin by no more than one: other samples are settled.
        open_ = np.flatnonzero(np.abs(margins) < 1.01)
        settled = (margins < -1).sum() - (margins[open_] < -1).sum()
        y, total = self._found.y[open_], self._total[open_]
        # The same is taken from all classes, so that single precision is enough for
        # those that come close.
        total -= total.max(axis=1, keepdims=True)

        def loss(terms: np.ndarray) -> np.ndarray:
            if len(y) < terms.shape[1]:
                terms = terms[:, open_]
            sums = sign * terms + total.astype(terms.dtype)
            wrong = (sums.argmax(axis=2) != y).sum(axis=1)
            return (settled + wrong) / self._found.n_samples

        return loss

    def _margins(self) -> np.ndarray:
        samples, y = np.arange(self._found.n_samples), self._found.y
        others = self._total.copy()
        others[samples, y] = -np.inf
        return self._total[samples, y] - others.max(axis=1)


def mean_of(found: Candidates, loss: str) -> _Mean:
    """Make the empty mean whose loss is `"nll"` or `"error"`.

    Raises:
        ValueError: If `loss` is something else.
    """
    if loss not in ("nll", "error"):
        raise ValueError(f"Expected loss='nll' or loss='error'. Received: {loss=}.")
    return _MeanLikelihood(found) if loss == "nll" else _MeanProbability(found)
