"""`EnsembleSelector`: a scikit-learn estimator on probabilities."""

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from keras_micronets.edge.combine import combine
from keras_micronets.selection.combination import as_combined
from keras_micronets.selection.methods import as_method
from keras_micronets.selection.targets import Targets
from keras_micronets.selection.validation import check_probabilities

__all__ = ["EnsembleSelector"]


class EnsembleSelector(ClassifierMixin, BaseEstimator):
    """Select an ensemble from the predictions of learners, as a scikit-learn estimator.

    It works with `clone`, `cross_val_score`, `GridSearchCV` and metadata routing.
    scikit-learn's samples come first, so `X` is `np.moveaxis(probabilities, 0, 1)`.

    Args:
        method: Name in `selection.METHODS`, or a function with their signature.
            Defaults to `"cluster_then_forward"`.
        n_members: Integer, the number of learners to keep; for the default method, the
            largest. Defaults to `4`.
        combination: `"mean"`, with the weights of the selection, `"logit"`, `"vote"` or
            `"weights"`; see `selection.combine`. Defaults to `"mean"`.
        random_state: As in scikit-learn. Defaults to `None`.

    Attributes:
        selection_: The `Selection`.
        rule_: Dictionary, the arguments of `selection.combine` for the members.
        classes_: Integers `0, 1, ...`, one for each class.
        n_features_in_: Integer, the number of learners.

    Example:

    ```python
    from sklearn.model_selection import GridSearchCV

    X = np.moveaxis(probabilities, 0, 1)  # (samples, learners, classes)
    search = GridSearchCV(
        EnsembleSelector(random_state=0),
        {"method": ["cluster", "greedy", "top_k"], "n_members": [2, 4]},
        scoring="neg_log_loss",
    ).fit(X, y)
    ```
    """

    def __init__(
        self,
        method: str | Callable = "cluster_then_forward",
        n_members: int = 4,
        *,
        combination: str = "mean",
        random_state: Any = None,
    ):
        self.method = method
        self.n_members = n_members
        self.combination = combination
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "EnsembleSelector":
        """Select the members on held-out predictions.

        Args:
            X: Array of shape `(samples, learners, classes)`.
            y: Labels, sparse or one-hot; see `as_labels`.
            sample_weight: Non-negative numbers of shape `(samples,)`, the weight of
                each sample in losses and scores. The method then receives `Targets`.
                Methods that count votes take none. Defaults to `None`, equal weights.

        Returns:
            The estimator.

        Raises:
            ValueError: If the method or combination is unknown, the data is invalid, or
                the method takes no sample weights.
        """
        p = _learners_first(X)
        if sample_weight is not None:
            y = Targets(y, sample_weight=sample_weight)
        method = as_method(self.method)
        self.selection_ = method(p, y, self.n_members, random_state=self.random_state)
        self.rule_ = as_combined(self.selection_, p, y, self.combination)
        self.classes_ = np.arange(p.shape[2])
        self.n_features_in_ = len(p)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probabilities of the ensemble, `(samples, classes)`."""
        check_is_fitted(self)
        p = _learners_first(X)
        if len(p) != self.n_features_in_:
            raise ValueError(
                f"Expected predictions of {self.n_features_in_} learners, as in `fit`. "
                f"Received: {len(p)}."
            )
        combined = combine(p[self.selection_.indices], **self.rule_)
        # Weights in single precision may add up to more than one, which scikit-learn's
        # scores reject.
        return combined / combined.sum(axis=1, keepdims=True)

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable classes, `(samples,)`."""
        return self.predict_proba(X).argmax(axis=1)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.input_tags.positive_only = True
        return tags


def _learners_first(X: Any) -> np.ndarray:
    X = np.asarray(X)
    if X.ndim != 3:
        raise ValueError(
            "Expected X of shape (samples, learners, classes). "
            f"Received: shape {X.shape}."
        )
    return check_probabilities(np.moveaxis(X, 1, 0))
