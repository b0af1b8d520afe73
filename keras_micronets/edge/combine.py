"""Combine the predictions of several members into one."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .tasks import CLASS_TASKS, PER_LABEL, TASKS, to_columns

__all__ = [
    "EPSILON",
    "RULES",
    "check_rule",
    "combine",
    "rules_of",
    "scale_logarithms",
]

#: The rules of combination, for tasks with classes and for those with numbers.
RULES = ("mean", "logit", "vote", "weights")
NUMBER_RULES = ("mean", "median", "weights")
#: Lower bound in mean logits: one 8-bit member's zeros must not outvote all others.
MIN_PROBABILITY = 1e-3
#: Lower bound of a combined probability before the logarithm, as in Keras's losses.
EPSILON = 1e-7
MIN_TEMPERATURE = 1e-3


def combine(
    probabilities: Any,
    *,
    rule: str = "mean",
    weights: Sequence[float] | np.ndarray | None = None,
    temperature: float = 1.0,
    task: str = "multiclass",
    xp: Any = np,
) -> Any:
    """Combine the predictions of several members into one.

    The same function serves the device, with NumPy, and Keras models, with
    `xp=keras.ops`.

    Args:
        probabilities: Array of shape `(members, samples, classes)`; each row sums
            to one. For `"binary"`, `(members, samples, 1)`, and for `"multilabel"`,
            `(members, samples, labels)`: the probability of each label. For
            `"regression"` and `"reconstruction"`, numbers of shape
            `(members, samples, *outputs)`.
        rule: `"mean"`, the mean; `"logit"`, the softmax of the mean
            logarithm, with probabilities below 0.001 raised to it; `"vote"`, the share
            of the members whose most probable class it is, with ties, and only ties,
            resolved by the mean probability; `"weights"`, the weighted mean; or
            `"median"`. Logarithms and votes are for classes, the median is for
            numbers. Defaults to `"mean"`.
        weights: One non-negative weight per member, summing to one, for the rule
            `"weights"`. Defaults to `None`.
        temperature: Positive number that the logarithms of the combined probabilities
            are divided by: above 1 they become less confident, below 1 more. Not for
            `"vote"` and not for numbers. Defaults to `1.0`, which changes nothing.
        task: What the members predict, one of `edge.TASKS`. Defaults to
            `"multiclass"`.
        xp: Namespace of the array functions: `numpy`, or `keras.ops` for tensors
            of any backend. Defaults to `numpy`.

    Returns:
        Array of the shape of one member's predictions.

    Raises:
        ValueError: If rule or task is unknown, or weights or temperature do not suit.

    Example:

    ```python
    from keras_micronets.edge import combine

    members = np.array([[[0.9, 0.1]], [[0.4, 0.6]]])
    combine(members)  # [[0.65, 0.35]]
    combine(members, rule="vote")  # a tie, won by the first class
    ```
    """
    check_rule(rule, weights, probabilities.shape[0], temperature, task)
    if task in PER_LABEL:
        columns = to_columns(probabilities, xp)
        return _combine(columns, rule, weights, temperature, xp)[..., 1]
    return _combine(probabilities, rule, weights, temperature, xp)


def _combine(predictions, rule, weights, temperature, xp):
    combined = _by_rule(predictions, rule, weights, xp)
    return combined if temperature == 1 else scale_logarithms(combined, temperature, xp)


def scale_logarithms(probabilities: Any, temperature: float, xp: Any = np) -> Any:
    """Return `softmax(log(p) / temperature)`, with zeros raised to `EPSILON`."""
    if xp is np:
        return _scale_logarithms(probabilities, temperature)
    logits = xp.log(xp.maximum(probabilities, EPSILON)) / temperature
    powers = xp.exp(logits - xp.max(logits, axis=-1, keepdims=True))
    return powers / xp.sum(powers, axis=-1, keepdims=True)


def _scale_logarithms(probabilities, temperature):
    # Processors differ in the last bits of logarithms and powers, too little in double
    # precision to be seen. Plain ufuncs are faster for a single sample.
    logits = np.log(np.maximum(probabilities, EPSILON), dtype=np.float64) / temperature
    powers = np.exp(logits - np.maximum.reduce(logits, axis=-1, keepdims=True))
    powers /= np.add.reduce(powers, axis=-1, keepdims=True)
    return powers.astype(probabilities.dtype)


def _by_rule(probabilities, rule, weights, xp):
    if rule == "median":
        return xp.median(probabilities, axis=0)
    if rule == "weights":
        weights = np.asarray(weights, "float32")
        # Keras's `average` on PyTorch would weight the classes, not the members.
        return xp.tensordot(weights / weights.sum(), probabilities, axes=1)
    if rule == "logit":
        return _mean_logit(probabilities, xp)
    # For a single sample, `np.sum` and `np.mean` take longer than the plain ufunc.
    total = np.add.reduce if xp is np else xp.sum
    mean = total(probabilities, axis=0) / probabilities.shape[0]
    return mean if rule == "mean" else _vote(probabilities, mean, xp)


def rules_of(task: str) -> tuple[str, ...]:
    """Return the rules by which members of a task can be combined."""
    return RULES if task in CLASS_TASKS else NUMBER_RULES


def check_rule(
    rule: str,
    weights: Sequence[float] | np.ndarray | None,
    n_members: int,
    temperature: float = 1.0,
    task: str = "multiclass",
) -> None:
    """Raise a `ValueError` unless all suit each other and the number of members."""
    if task not in TASKS:
        raise ValueError(f"Expected a task out of {TASKS}. Received: task={task!r}.")
    rules = rules_of(task)
    if rule not in rules:
        raise ValueError(
            f"Expected a rule out of {rules} for task={task!r}. Received: "
            f"rule={rule!r}."
        )
    if task not in CLASS_TASKS and temperature != 1:
        raise ValueError(
            f"Expected temperature=1.0 for task={task!r}, which predicts no "
            f"probabilities. Received: temperature={temperature}."
        )
    if not MIN_TEMPERATURE <= temperature <= 1 / MIN_TEMPERATURE:
        raise ValueError(
            f"Expected a temperature from {MIN_TEMPERATURE} to "
            f"{1 / MIN_TEMPERATURE:.0f}. Received: temperature={temperature}."
        )
    if rule == "vote" and temperature != 1:
        raise ValueError(
            "Expected temperature=1.0 with rule='vote', whose results are shares of "
            f"votes. Received: temperature={temperature}."
        )
    if rule != "weights":
        if weights is not None:
            raise ValueError(
                "Expected weights with rule='weights' only; omit them. "
                f"Received: rule={rule!r}, weights={weights}."
            )
        return
    values = np.asarray([] if weights is None else weights, "float64")
    if values.shape != (n_members,) or not (
        (values >= 0).all() and abs(values.sum() - 1) < 1e-4
    ):
        raise ValueError(
            f"Expected {n_members} non-negative weights that sum to one. "
            f"Received: weights={weights}."
        )


def _mean_logit(probabilities, xp):
    logits = xp.mean(xp.log(xp.maximum(probabilities, MIN_PROBABILITY)), axis=0)
    geometric = xp.exp(logits)
    return geometric / xp.sum(geometric, axis=-1, keepdims=True)


def _vote(probabilities, mean, xp):
    members, classes = probabilities.shape[0], probabilities.shape[-1]
    choices = xp.expand_dims(xp.argmax(probabilities, axis=-1), -1)
    votes = xp.equal(choices, xp.arange(classes, dtype=choices.dtype))
    share = xp.mean(xp.where(votes, xp.ones_like(mean), xp.zeros_like(mean)), axis=0)
    # Shares differ by at least 1/members or not at all, so this only resolves ties.
    tie_break = 0.5 / members
    return (share + tie_break * mean) / (1 + tie_break)
