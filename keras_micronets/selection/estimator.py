"""A scikit-learn estimator on bare probabilities."""

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from keras_micronets.edge.combine import combine
from keras_micronets.selection.combination import as_combined
from keras_micronets.selection.methods import as_method
from keras_micronets.selection.validation import check_probabilities


class EnsembleSelector(ClassifierMixin, BaseEstimator):
    """Choose among learners of which only the predictions are known.

    For scikit-learn's `clone`, `cross_val_score` and `GridSearchCV`. Samples come
    first there, so `X` is `numpy.moveaxis(probabilities, 0, 1)`.

    Args:
        method: Name out of `selection.METHODS`, or a function with their signature.
            Defaults to `"cluster"`.
        n_members: Integer, how many to keep. Defaults to `4`.
        combination: `"mean"`, weighted as the method says, `"logit"`, `"vote"` or
            `"weights"`; see `selection.combine`. Defaults to `"mean"`.
        random_state: As in scikit-learn. Defaults to `None`.

    Attributes:
        selection_: The `Selection`.
        rule_: Dictionary, how the chosen are combined: arguments of
            `selection.combine`.
        classes_: Integers `0, 1, ...`, one a class.
        n_features_in_: Integer, the number of learners.

    Example:

    ```python
    from sklearn.model_selection import GridSearchCV

    X = numpy.moveaxis(probabilities, 0, 1)  # (samples, learners, classes)
    search = GridSearchCV(
        EnsembleSelector(random_state=0),
        {"method": ["cluster", "greedy", "top_k"], "n_members": [2, 4, 8]},
        scoring="neg_log_loss",
    ).fit(X, y)
    ```
    """

    def __init__(
        self,
        method: str | Callable = "cluster",
        n_members: int = 4,
        *,
        combination: str = "mean",
        random_state: Any = None,
    ):
        self.method = method
        self.n_members = n_members
        self.combination = combination
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> "EnsembleSelector":
        """Choose on held-out predictions.

        Args:
            X: Array of shape `(samples, learners, classes)`.
            y: Labels, sparse or one-hot; see `as_labels`.

        Raises:
            ValueError: If the method or combination is not known, or data is bad.
        """
        p = _learners_first(X)
        method = as_method(self.method)
        self.selection_ = method(p, y, self.n_members, random_state=self.random_state)
        self.rule_ = as_combined(self.selection_, p, y, self.combination)
        self.classes_ = np.arange(p.shape[2])
        self.n_features_in_ = len(p)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probabilities of the chosen together, `(samples, classes)`."""
        check_is_fitted(self)
        p = _learners_first(X)
        if len(p) != self.n_features_in_:
            raise ValueError(
                f"Expected predictions of {self.n_features_in_} learners, those that "
                f"were chosen among. Received: {len(p)}."
            )
        together = combine(p[self.selection_.indices], **self.rule_)
        # Weights in single precision may add up to more than one, which scikit-learn's
        # scores refuse.
        return together / together.sum(axis=1, keepdims=True)

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable classes, `(samples,)`."""
        return self.predict_proba(X).argmax(axis=1)


def _learners_first(X: Any) -> np.ndarray:
    X = np.asarray(X)
    if X.ndim != 3:
        raise ValueError(
            "Expected X of shape (samples, learners, classes). "
            f"Received: shape {X.shape}."
        )
    return check_probabilities(np.moveaxis(X, 1, 0))
