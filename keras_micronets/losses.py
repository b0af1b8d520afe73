"""Losses for the training of small networks."""

from typing import Any

import keras
from keras import ops

from keras_micronets._serialization import Configurable, serializable

__all__ = ["Distillation"]


def pack(sample_weight: Any, teacher: Any) -> dict[str, Any]:
    """Return the third value of a distilled batch, which Keras passes to the loss.

    Keras sorts the names, and takes the first as the weights of `weighted_metrics`.
    """
    return {"sample_weight": sample_weight, "teacher": teacher}


@serializable()
class Distillation(Configurable, keras.losses.Loss):
    """Train a student on labels and on the outputs of a teacher.

    Compile the student with this loss and fit it on the batches of
    `keras_micronets.distill`, which hold the teacher's outputs. The loss of a sample is

    `(1 - weight) * hard + weight * temperature ** 2 * soft`

    where `hard` is an ordinary loss for the label and `soft` the Kullback-Leibler
    divergence of the student's probabilities from the teacher's, both at the
    temperature: their logarithms are divided by it, then normalised. The factor
    `temperature ** 2` keeps the size of the gradients, as in the paper. With one
    sigmoid unit, or with a binary hard loss, each output is a probability of its own.
    With a hard loss for regression, such as `"mse"`, `soft` is the squared difference
    from the teacher's output and there is no temperature.

    On data with plain labels, such as `validation_data`, `evaluate` returns the hard
    loss. Metrics and sample weights mean what they always do.

    Args:
        weight: Float in [0, 1], the share of the teacher. With 0 the labels alone
            count, with 1 the teacher alone; raise it if many labels are wrong. Defaults
            to `0.7`.
        temperature: Positive float. Above 1, the teacher's small probabilities count
            for more. Defaults to `2.0`.
        loss: The hard loss: a `keras.losses.Loss` or its name. `None` for the
            crossentropy that fits the labels: sparse, one-hot, or binary if the student
            has a single output. Defaults to `None`.
        from_logits: Boolean, whether the student returns logits, which train better
            than the outputs of a softmax. `None` for the setting of `loss`, and `False`
            without one, as for Keras's losses. Defaults to `None`.
        reduction: As for `keras.losses.Loss`. Defaults to `"sum_over_batch_size"`.
        name: String. Defaults to `"distillation"`.

    Raises:
        ValueError: If an argument lies outside its range or `from_logits` contradicts
            `loss`. In training, if the batches have no teacher's outputs, or another
            number of outputs than the student.

    Example:

    ```python
    student = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(2)])
    student.compile(
        "adam", kmn.losses.Distillation(from_logits=True), metrics=["accuracy"]
    )
    student.fit(kmn.distill(model, x_train, y_train), validation_data=(x_val, y_val))
    ```

    Reference: Hinton, Vinyals and Dean 2015, "Distilling the knowledge in a neural
    network".
    """

    def __init__(
        self,
        weight: float = 0.7,
        temperature: float = 2.0,
        *,
        loss: str | keras.losses.Loss | None = None,
        from_logits: bool | None = None,
        reduction: str = "sum_over_batch_size",
        name: str = "distillation",
    ) -> None:
        keras.losses.Loss.__init__(self, name=name, reduction=reduction)
        self.weight = weight
        self.temperature = temperature
        self.loss = loss
        self._from_logits = from_logits
        self._hard = _as_loss(loss, from_logits)
        _check(weight, temperature, from_logits, self._hard)

    @property
    def from_logits(self) -> bool | None:
        """Whether the student returns logits; `None` for a regression."""
        if self.is_regression:
            return None
        return bool(getattr(self._hard, "from_logits", self._from_logits))

    @property
    def is_regression(self) -> bool:
        """Whether the hard loss compares values, not probabilities."""
        return self._hard is not None and not _is_crossentropy(self._hard)

    def argument(self, name: str) -> Any:
        return self._from_logits if name == "from_logits" else super().argument(name)

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Return the loss of a batch, distilled or with plain labels."""
        if not isinstance(sample_weight, dict):
            return _without_gradient(super().__call__(y_true, y_pred, sample_weight))
        teacher = sample_weight["teacher"]
        if len(y_pred.shape) != 2 or y_pred.shape[-1] != teacher.shape[-1]:
            raise ValueError(
                "Expected a student with one output of shape (samples, "
                f"{teacher.shape[-1]}), like its teacher. Received: a student with "
                f"output shape {tuple(y_pred.shape)}."
            )
        y_true = {"labels": y_true, "teacher": teacher}
        return super().__call__(y_true, y_pred, sample_weight["sample_weight"])

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of each sample."""
        if not isinstance(y_true, dict):
            return self._hard_loss(y_true, y_pred)
        hard: Any = self._hard_loss(y_true["labels"], y_pred)
        soft: Any = self._soft_loss(y_true["teacher"], y_pred)
        return (1.0 - self.weight) * hard + self.weight * soft

    def _hard_loss(self, y_true, y_pred):
        loss = self._hard or _crossentropy(y_true, y_pred, self.from_logits)
        return loss.call(y_true, y_pred)

    def _soft_loss(self, teacher, y_pred):
        if self.is_regression:
            return ops.mean(ops.square(y_pred - teacher), axis=-1)
        is_binary = y_pred.shape[-1] == 1 or "Binary" in type(self._hard).__name__
        divergence = _binary_divergence if is_binary else _divergence
        losses = divergence(teacher, y_pred, self.temperature, self.from_logits)
        return losses * self.temperature**2


def _divergence(teacher, y_pred, temperature, from_logits):
    scores = y_pred if from_logits else _log(y_pred)
    student = ops.log_softmax(scores / temperature)
    teacher = ops.log_softmax(_log(teacher) / temperature)
    return ops.sum(ops.exp(teacher) * (teacher - student), axis=-1)


def _binary_divergence(teacher, y_pred, temperature, from_logits):
    logits = y_pred if from_logits else _log(y_pred) - _log(1.0 - y_pred)
    logits = logits / temperature
    teacher = (_log(teacher) - _log(1.0 - teacher)) / temperature
    on, off = ops.sigmoid(teacher), ops.sigmoid(-teacher)
    losses = on * (ops.log_sigmoid(teacher) - ops.log_sigmoid(logits))
    losses += off * (ops.log_sigmoid(-teacher) - ops.log_sigmoid(-logits))
    return ops.mean(losses, axis=-1)


def _log(probabilities):
    return ops.log(ops.clip(probabilities, keras.config.epsilon(), 1.0))


@ops.custom_gradient
def _without_gradient(loss):
    """Return a loss that cannot be trained on: its batch has no teacher's outputs."""

    def gradient(*_, **__):
        raise ValueError(
            "Expected batches with the outputs of a teacher, for the loss "
            "`Distillation`. Received: plain labels. Train on `keras_micronets."
            "distill(teacher, x, y)`, also as the `data` of callbacks, or compile the "
            "model with another loss."
        )

    return loss, gradient


def _crossentropy(y_true, y_pred, from_logits):
    if y_pred.shape[-1] == 1:
        return keras.losses.BinaryCrossentropy(from_logits)
    if len(y_true.shape) == len(y_pred.shape) and y_true.shape[-1] != 1:
        return keras.losses.CategoricalCrossentropy(from_logits)
    return keras.losses.SparseCategoricalCrossentropy(from_logits)


def _as_loss(loss, from_logits):
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
        name = getattr(loss, "__name__", "")
        # The classes also bring labels and outputs to the same rank.
        cls = getattr(keras.losses, name.title().replace("_", ""), None)
        if cls is not None:
            named = from_logits and "crossentropy" in name
            loss = cls(from_logits=True) if named else cls()
    if loss is not None and not isinstance(loss, keras.losses.Loss):
        raise ValueError(
            "Expected `loss` to be a `keras.losses.Loss`, its name, or `None`. "
            f"Received: loss={loss!r}."
        )
    return loss


def _is_crossentropy(loss):
    is_named = "crossentropy" in f"{loss.name} {type(loss).__name__}".lower()
    return is_named or hasattr(loss, "from_logits")


def _check(weight, temperature, from_logits, loss):
    if not 0.0 <= weight <= 1.0:
        raise ValueError(
            "Expected `weight` in [0, 1], the share of the teacher. "
            f"Received: weight={weight}."
        )
    if not temperature > 0.0:
        raise ValueError(
            "Expected `temperature` to be positive. "
            f"Received: temperature={temperature}."
        )
    known = getattr(loss, "from_logits", None)
    if None not in (known, from_logits) and bool(known) != from_logits:
        raise ValueError(
            f"Expected `from_logits` as in the loss, {known}; leave it out. "
            f"Received: from_logits={from_logits}."
        )
