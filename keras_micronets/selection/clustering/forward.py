"""Forward selection among the representatives of clusters, with a held-out test."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from keras_micronets.selection.candidates import Candidates
from keras_micronets.selection.clustering.cluster import Clustering, find_clusters
from keras_micronets.selection.cross_validation import split
from keras_micronets.selection.metrics import standard_error
from keras_micronets.selection.ordering.method import lowest
from keras_micronets.selection.selection import Selection, SizeChoice
from keras_micronets.selection.targets import Targets

__all__ = ["cluster_then_forward"]

#: Learners that each cluster proposes by accuracy, and again by loss.
_N_PROPOSED = 2
#: Shares of a new member that are tried, relative to an equal share.
_SHARES = (1.0, 0.5, 0.25)
_WEIGHT_STEPS = 30
_N_SPLITS, _N_REPEATS = 5, 3
# Numbers that are processed at once; more do not fit into a processor's cache.
_BLOCK = 2**17


def cluster_then_forward(
    probabilities: Any,
    y: Any,
    n_members: int | str | None = 4,
    *,
    on: str = "probabilities",
    distances: Any = None,
    clusterer: Any = None,
    representative: str | None = None,
    max_members: int = 10,
    standard_errors: float = 0.0,
    random_state: Any = None,
) -> Selection:
    """Add representatives of clusters to the best learner while each lowers the loss.

    It keeps at most `n_members`, with three steps:

    1. Learners are clustered as by `cluster`. Each cluster proposes its two most
       accurate learners and its two of the lowest loss.
    2. Forward selection starts from the learner of the lowest loss, and adds the
       proposal that lowers the negative log-likelihood of the weighted mean the most.
       The weights are fitted by maximum likelihood after each addition.
    3. All of this is cross-validated over samples (five folds, three times), and the
       number of members with the lowest loss on samples left out is kept: a member that
       does not lower that loss does not enter, not even the second. Weights are equal
       where fitted ones do not lower it.

    The same is done with all learners as proposals. Their ensemble replaces that of the
    clusters if its held-out loss is lower: where only one cluster is any good, the best
    members are all in it.

    The cost is that of `cluster`, plus O(30 x members x learners x samples).

    Args:
        probabilities: Array of shape `(learners, samples, classes)`.
        y: Labels, sparse or one-hot; see `as_labels`.
        n_members: Integer, the largest number of members, and the number of clusters.
            `"silhouette"`, `"loss"` or `None` as for `cluster`. Defaults to `4`.
        on, distances, clusterer, max_members: See `cluster`.
        representative: String, the learners that clusters propose instead, a rule of
            `cluster`. Defaults to `None`.
        standard_errors: Float, by how many standard errors of the mean paired
            difference over the samples a loss has to be lower to count as lower. With
            `1`, the rule of CART, there are fewer members, and a higher loss where
            samples are few. Defaults to `0.0`.
        random_state: As in scikit-learn, for the clusterer and the folds. Defaults to
            `None`, which differs from call to call.

    Returns:
        A `Selection`. Its `size` is a `SizeChoice`, which prints why there are so many
        members, and has the gain over the best single learner.

    Raises:
        TypeError: If `clusterer` is not a scikit-learn clusterer.
        ValueError: If there are fewer learners than `n_members` or fewer than two
            samples, no clusters, a negative number of standard errors, an unknown
            argument, or invalid data.

    Example:

    ```python
    selection = cluster_then_forward(probabilities, y, n_members=8, random_state=0)
    print(selection.size)
    ```

    References: Lazarevic & Obradovic, "Effective Pruning of Neural Network Classifier
    Ensembles", IJCNN 2001 (clusters). Caruana et al., "Ensemble Selection from
    Libraries of Models", ICML 2004 (forward selection). Breiman et al.,
    "Classification and Regression Trees", 1984 (the one-standard-error rule).
    """
    if not standard_errors >= 0:
        raise ValueError(
            f"Expected zero or more standard errors. Received: {standard_errors=}."
        )
    clustering = find_clusters(
        probabilities,
        y,
        n_members,
        on=on,
        distances=distances,
        clusterer=clusterer,
        representative=representative or "accuracy",
        max_members=max_members,
        random_state=random_state,
        at_most=True,
    )
    candidates = clustering.candidates
    fixed = n_members is not None and not isinstance(n_members, str)
    most = candidates.n_members if fixed else len(clustering.members)
    seed = check_random_state(random_state).randint(2**31 - 1)
    folds = split(len(candidates.targets), _N_SPLITS, _N_REPEATS, seed)
    by_cluster = partial(_of_clusters, clustering, representative)
    growth = _Growth(candidates, by_cluster, most, folds, standard_errors)
    everyone = clustering.distinct
    if len(by_cluster(candidates.accuracies, candidates.losses)) < len(everyone):
        free = _Growth(
            candidates,
            lambda *_: everyone,
            most,
            folds,
            standard_errors,
            source="all learners",
        )
        losses, others = (x.held_out[x.size - 1] for x in (free, growth))
        if _is_lower(losses, others, standard_errors):
            growth = free
    return replace(growth.select(clustering.labels_of_all), size=growth.explain())


class _Growth:
    """An ensemble that grows by one member at a time, and its held-out losses.

    Args:
        candidates: `Candidates`.
        proposals: Function of accuracies and losses that returns the candidates which
            may become members, in ascending order.
        most: Integer, the largest number of members.
        folds: List of pairs, the samples to grow on and the samples to score on.
        standard_errors: Float; see `cluster_then_forward`.
        source: String, the origin of the proposals.

    Attributes:
        held_out: Float array of shape `(sizes, samples)`: the losses with the fitted
            weights.
        size: Integer, the chosen number of members.
    """

    def __init__(
        self,
        candidates: Candidates,
        proposals: Callable[[np.ndarray, np.ndarray], np.ndarray],
        most: int,
        folds: list[tuple[np.ndarray, np.ndarray]],
        standard_errors: float,
        source: str = "clusters",
    ):
        self.candidates, self.most, self.source = candidates, most, source
        allowed = proposals(candidates.accuracies, candidates.losses)
        targets = candidates.targets
        terms = _flat(candidates.terms)
        self.order, self.weights = _grow(terms, targets, allowed, most)
        scores = np.zeros((2, len(self.order), len(targets)))
        n_scored = np.zeros(len(targets))
        for grown_on, scored_on in folds:
            terms, some = _flat(candidates.terms[:, grown_on]), targets[grown_on]
            losses = some.average(some.loss(terms))
            allowed = proposals(candidates.scores_on(grown_on), losses)
            grown = _grow(terms, some, allowed, len(self.order))
            scores[..., scored_on] += _losses(
                _flat(candidates.terms[:, scored_on]),
                targets[scored_on],
                *grown,
                len(self.order),
            )
            n_scored[scored_on] += 1
        # Weights of the samples, so that a plain mean of these losses is weighted.
        weights = targets.sample_weight
        shares = 1.0 if weights is None else weights / weights.mean()
        self.held_out, self._equal = scores / n_scored * shares
        self.size = _fewest(self.held_out, standard_errors)

    def select(self, labels: np.ndarray) -> Selection:
        """Return the chosen members; `labels` are the clusters of all candidates."""
        last = self.size - 1
        fitted = self.held_out[last].mean() < self._equal[last].mean()
        return self.candidates.select(
            self.order[: self.size],
            weights=self.weights[last] if fitted else None,
            labels=labels,
            method="cluster_then_forward",
        )

    def explain(self) -> SizeChoice:
        differences = self.held_out - self.held_out[self.size - 1]
        return SizeChoice(
            self.size,
            self.most,
            self.held_out.mean(axis=1),
            standard_error(differences),
            len(self.candidates.targets),
            self.source,
        )


def _of_clusters(
    clustering: Clustering,
    representative: str | None,
    accuracies: np.ndarray,
    losses: np.ndarray,
) -> np.ndarray:
    """Return the best learner and what the clusters propose, in ascending order."""
    distinct = clustering.distinct
    proposed = [distinct[[lowest(losses[distinct]).argmax()]]]
    if representative is not None:
        proposed.append(clustering.representatives(accuracies, losses))
        return np.unique(np.concatenate(proposed))
    for members in clustering.members:
        by_accuracy = np.lexsort((losses[members], -accuracies[members]))
        by_loss = np.argsort(losses[members], kind="stable")
        for ranked in (by_accuracy, by_loss):
            proposed.append(members[ranked[:_N_PROPOSED]])
    return np.unique(np.concatenate(proposed))


def _flat(terms: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(terms).reshape(len(terms), -1)


def _grow(
    terms: np.ndarray, targets: Targets, allowed: np.ndarray, most: int
) -> tuple[list[int], list[np.ndarray]]:
    """Return the members in the order of their addition, and the weights of each size.

    Args:
        terms: Float array of shape `(learners, samples * cells)`; see `Targets.terms`.
        targets: The `Targets` of these samples.
        allowed: Integers, the learners to choose from.
        most: Integer, the largest number of members.
    """
    order: list[int] = []
    weights = [np.empty(0)]
    mean = np.zeros(terms.shape[1])
    while len(order) < min(most, len(allowed)):
        remaining = np.setdiff1d(allowed, order)
        shares = np.array(_SHARES if order else (1.0,)) / (len(order) + 1)
        losses = [
            _losses_with(terms, targets, remaining, mean, share) for share in shares
        ]
        best = int(lowest(np.min(losses, axis=0)).argmax())
        share = shares[int(lowest(np.array(losses)[:, best]).argmax())]
        order.append(int(remaining[best]))
        start = np.append(weights[-1] * (1 - share), share)
        weights.append(targets.fit_weights(terms[order], start, _WEIGHT_STEPS))
        mean = weights[-1] @ terms[order]
    return order, weights[1:]


def _losses_with(
    terms: np.ndarray,
    targets: Targets,
    indices: np.ndarray,
    mean: np.ndarray,
    share: float,
) -> np.ndarray:
    """Return the loss of the mean with a share of each of the learners."""
    losses = np.empty(len(indices))
    length = max(1, _BLOCK // len(mean))
    for start in range(0, len(indices), length):
        part = slice(start, start + length)
        mixed = share * terms[indices[part]] + (1 - share) * mean
        losses[part] = targets.average(targets.loss(mixed))
    return losses


def _losses(
    terms: np.ndarray,
    targets: Targets,
    order: list[int],
    weights: list[np.ndarray],
    n_sizes: int,
) -> np.ndarray:
    """Return losses with fitted and with equal weights, `(2, sizes, samples)`.

    Where fewer learners were proposed than there are sizes, the last one is repeated.
    """
    right = terms[order]
    sizes = np.minimum(np.arange(n_sizes), len(order) - 1)
    fitted = [weights[i] @ right[: i + 1] for i in sizes]
    equal = [right[: i + 1].mean(axis=0) for i in sizes]
    return targets.per_sample(targets.loss(np.array([fitted, equal])))


def _fewest(losses: np.ndarray, standard_errors: float) -> int:
    """Return the least number of members within the error of the lowest loss.

    Args:
        losses: Float array of shape `(sizes, samples)`.
        standard_errors: Float; see `cluster_then_forward`.
    """
    best = int(lowest(losses.mean(axis=1)).argmax())
    return next(
        size
        for size, one in enumerate(losses, start=1)
        if size > best or not _is_lower(losses[best], one, standard_errors)
    )


def _is_lower(losses: np.ndarray, others: np.ndarray, standard_errors: float) -> bool:
    """Return whether losses of the same samples are lower by more than their error."""
    differences = others - losses
    return bool(differences.mean() > standard_errors * standard_error(differences))
