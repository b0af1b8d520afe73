"""Several models of one problem as one Keras model, trained by one `fit`."""

import re
from collections.abc import Sequence
from typing import Any, Self

import keras
import numpy as np

from keras_micronets._serialization import serializable
from keras_micronets.edge.tasks import softmax

__all__ = ["SideBySide", "member_logs", "members_of"]


@serializable()
class SideBySide(keras.Model):
    """Train several models of one problem in one `fit`, independent of each other.

    `keras_micronets.side_by_side` makes the members from a function that builds one.

    The loss is the sum of the members' losses, so each member is trained as it would
    be alone: by its own gradient, on the same batches. `fit` and `evaluate` take the
    data of one member. Their logs hold each compiled metric for each member, such as
    `member_1_accuracy`, and under its plain name the mean over the members. `loss` is
    the sum, `member_1_loss` a member's part without regularisation. `predict` returns
    the mean of the members' predictions, of shape `(samples, outputs)`; if the loss has
    `from_logits=True`, of their probabilities. Calling the model returns the list of
    the members' outputs.

    `compile` also compiles each member with the loss and the metrics, so that it can be
    evaluated alone. Compile a member with your optimizer to train it further.

    Args:
        members: List of Keras models that take the same inputs, each with one output.
        seeds: List of integers, the seed of each member, or `None` if they are unknown.
            Defaults to `None`.
        bootstrap: Boolean, whether `fit` weights the samples differently for each
            member; see `side_by_side`. Defaults to `False`.
        name: Name of the model. Defaults to `"side_by_side"`.

    Attributes:
        members: The models. Each is a plain Keras model to save, prune or export.
        seeds: Their seeds.

    Raises:
        ValueError: If there are no members, one model is given twice, members have
            several outputs or share trainable weights, or the number of seeds differs.

    Example:

    ```python
    def build():
        return keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])

    joint = kmn.layers.SideBySide([build(), build()])
    joint.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    joint.members[0].summary()
    ```
    """

    def __init__(
        self,
        members: Sequence[keras.Model],
        *,
        seeds: Sequence[int] | None = None,
        bootstrap: bool = False,
        name: str = "side_by_side",
        **kwargs: Any,
    ):
        members, seeds = list(members), None if seeds is None else list(seeds)
        _check_members(members, seeds)
        dtype = kwargs.pop("dtype", members[0].dtype_policy)
        super().__init__(name=name, dtype=dtype, autocast=False, **kwargs)
        self.members = members
        self.seeds = seeds
        self.bootstrap = bootstrap
        self.output_names = [f"member_{i + 1}" for i in range(len(members))]
        self.built = all(member.built for member in members)

    def build(self, input_shape: Any) -> None:
        for member in self.members:
            if not member.built:
                member.build(input_shape)

    def build_from_config(self, config: dict[str, Any]) -> None:
        """Do nothing: the members restore their own shapes."""

    def call(self, inputs: Any, training: bool | None = None) -> list[Any]:
        return [member(inputs, training=training) for member in self.members]

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        loss_weights: Any = None,
        metrics: Sequence | None = None,
        weighted_metrics: Sequence | None = None,
        **kwargs: Any,
    ) -> None:
        """Configure the training of all members.

        Args:
            optimizer: As for any Keras model; its state is separate for each weight.
            loss: The loss of one member.
            loss_weights: Not supported, must be `None`.
            metrics, weighted_metrics: List of the metrics of one member.
            **kwargs: As for any Keras model.

        Raises:
            ValueError: If a loss or metrics are given for several outputs, or the
                optimizer has a `global_clipnorm`, which would depend on all members.
        """
        optimizer = keras.optimizers.get(optimizer)
        _check_compile(optimizer, loss, loss_weights, metrics, weighted_metrics)
        for member in self.members:
            member.compile(
                keras.optimizers.SGD(),  # has no state to save with the model
                loss,
                metrics=_copies(metrics),
                weighted_metrics=_copies(weighted_metrics),
                **{**kwargs, "auto_scale_loss": False},
            )
        super().compile(
            optimizer,
            loss,
            metrics=self._each(metrics),
            weighted_metrics=self._each(weighted_metrics),
            **kwargs,
        )

    def _each(self, metrics):
        """Return a list of metrics for each member."""
        return metrics and [_copies(metrics) for _ in self.members]

    def get_compile_config(self) -> dict[str, Any]:
        config = super().get_compile_config()
        for name in ("metrics", "weighted_metrics"):
            if config.get(name):
                config[name] = config[name][0]
        return config

    def compile_from_config(self, config: dict[str, Any]) -> None:
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        targets = y if y is None else [y] * len(self.members)
        weights = self._by_member(sample_weight)
        return super().compute_loss(x, targets, y_pred, weights, training)

    def compute_metrics(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None
    ) -> dict[str, Any]:
        if isinstance(sample_weight, dict):
            sample_weight = sample_weight["sample_weight"]
        targets, weights = [y] * len(self.members), self._by_member(sample_weight)
        return super().compute_metrics(x, targets, y_pred, weights)

    def _by_member(self, weights):
        """Return a list of the members' sample weights; `None` without any."""
        n_members = len(self.members)
        if isinstance(weights, dict):  # of `Distillation`, with a teacher's outputs
            each = self._by_member(weights["sample_weight"]) or [None] * n_members
            return [{**weights, "sample_weight": one} for one in each]
        if self.bootstrap and weights is not None and _columns(weights) == n_members:
            return [weights[:, i] for i in range(n_members)]
        return None if weights is None else [weights] * n_members

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of all weights on PyTorch, as its training steps do.

        The module that Keras makes keeps one weight for each path, and members may have
        equal paths: the gradients of all but the last member would add up.
        """
        for variable in self.trainable_variables:
            variable.value.grad = None

    def get_metrics_result(self) -> dict[str, Any]:
        results = super().get_metrics_result()
        by_name = {}
        for key, value in results.items():
            name = _plain_name(key, "loss")
            if name:
                by_name.setdefault(name, []).append(value)
        return results | {name: sum(x) / len(x) for name, x in by_name.items()}

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        *args: Any,
        sample_weight: Any = None,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """Train all members.

        Args:
            x, y: The data of one member, as for any Keras model. With `bootstrap`, a
                `keras.utils.PyDataset` or `tf.data.Dataset` must yield `(x, y,
                weights)` with weights of shape `(batch, members)`: rows of
                `bootstrap_weights`.
            *args, **kwargs: As for any Keras model.
            sample_weight: Array of shape `(samples,)`; with `bootstrap` also
                `(samples, members)`, which replaces the weights that `fit` would draw.

        Returns:
            The history, as of any Keras model.

        Raises:
            ValueError: With `bootstrap`, if `class_weight` is given, or a data set has
                no weights of the members.
        """
        if self.bootstrap and y is None:
            _check_batch(x, len(self.members))
        elif self.bootstrap:
            _check_no_class_weight(kwargs.get("class_weight"))
            n_samples = len(keras.tree.flatten(x)[0])
            n_trained = int(n_samples * (1.0 - kwargs.get("validation_split", 0.0)))
            weights = np.ones((n_samples, len(self.members)), "float32")
            weights[:n_trained] = self.bootstrap_weights(n_trained)
            if sample_weight is not None:
                given = np.asarray(sample_weight, "float32")
                one_each = given.ndim == 1
                weights = weights * given[:, None] if one_each else given
            sample_weight = weights
        return super().fit(x, y, *args, sample_weight=sample_weight, **kwargs)

    def bootstrap_weights(self, n_samples: int) -> np.ndarray:
        """Return how often each sample counts for each member, from their seeds.

        Args:
            n_samples: Integer, the size of the training data.

        Returns:
            Float32 array of shape `(n_samples, members)`; each column sums to
            `n_samples`, as if drawn with replacement.
        """
        counts = [
            np.random.default_rng((seed, n_samples)).multinomial(
                n_samples, np.full(n_samples, 1.0 / n_samples)
            )
            for seed in self.seeds or range(len(self.members))
        ]
        return np.stack(counts, axis=-1).astype("float32")

    def evaluate(
        self, *args: Any, return_dict: bool = False, **kwargs: Any
    ) -> dict[str, float] | list[float] | float:
        """Evaluate all members.

        Args:
            *args, **kwargs: As for any Keras model.
            return_dict: Boolean, whether to return all values by name. Defaults to
                `False`.

        Returns:
            Dictionary of the values by name; or, as one member returns it, a list of
            the loss, here the sum, and the means of the compiled metrics.
        """
        logs: Any = super().evaluate(*args, return_dict=True, **kwargs)
        if return_dict:
            return logs
        names = [name for name in self.get_metrics_result() if not _plain_name(name)]
        return logs["loss"] if names == ["loss"] else [logs[name] for name in names]

    def predict(self, x: Any, *args: Any, **kwargs: Any) -> np.ndarray:
        """Return the mean of the members' predictions.

        Args:
            x: Inputs, as for any Keras model.
            *args, **kwargs: As for any Keras model.

        Returns:
            Array of shape `(samples, outputs)`, of probabilities if the loss has
            `from_logits=True`.
        """
        return self._mean(super().predict(x, *args, **kwargs))

    def predict_on_batch(self, x: Any) -> np.ndarray:
        """Return the mean of the members' predictions on one batch."""
        return self._mean(super().predict_on_batch(x))

    def _mean(self, outputs):
        if getattr(self.loss, "from_logits", False):
            outputs = [_probabilities(one) for one in outputs]
        return np.mean(outputs, axis=0)

    def with_members(self, members: Sequence[keras.Model]) -> Self:
        """Return a model of other members with the same settings, not compiled."""
        return type(self)(
            members, seeds=self.seeds, bootstrap=self.bootstrap, name=self.name
        )

    def get_config(self) -> dict[str, Any]:
        """Return the members' configurations and the settings."""
        members = [keras.saving.serialize_keras_object(x) for x in self.members]
        for member in members:
            member.pop("compile_config", None)
        settings = {"seeds": self.seeds, "bootstrap": self.bootstrap}
        return {**super().get_config(), "members": members, **settings}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Self:
        """Make a model from what `get_config` returned."""
        restore = keras.saving.deserialize_keras_object
        members = [restore(x, custom_objects) for x in config["members"]]
        config = {key: x for key, x in config.items() if key != "members"}
        if isinstance(config.get("dtype"), dict):
            config["dtype"] = restore(config["dtype"])
        return cls(members, **config)


def members_of(model: keras.Model) -> list[keras.Model]:
    """Return the members of a `SideBySide` model; of another model, itself."""
    return list(model.members) if isinstance(model, SideBySide) else [model]


def member_logs(logs: dict[str, Any], index: int) -> dict[str, Any]:
    """Return the logs of one member under plain names; others are kept.

    Args:
        logs: Logs of an epoch of a `SideBySide` model.
        index: Integer, the number of the member, from 0.
    """
    own, prefix = {}, f"member_{index + 1}_"
    for key, value in logs.items():
        validation = "val_" if key.startswith("val_") else ""
        name = key.removeprefix(validation)
        if name.startswith(prefix):
            own[validation + name.removeprefix(prefix)] = value
    return {key: x for key, x in logs.items() if not _plain_name(key)} | own


def _plain_name(key, *without):
    """Return the metric's name in the key of a member; `None` for other keys."""
    match = re.fullmatch(r"(?:val_)?member_\d+_(.+)", key)
    return match[1] if match and match[1] not in without else None


def _probabilities(logits):
    logits = np.asarray(logits, "float32")
    if logits.shape[-1] == 1:
        return 0.5 * (1.0 + np.tanh(0.5 * logits))  # a sigmoid without overflow
    return softmax(logits)


def _copies(metrics):
    """Copy metrics, which have a state; names and functions are kept."""
    is_metric = keras.metrics.Metric
    return metrics and [
        type(x).from_config(x.get_config()) if isinstance(x, is_metric) else x
        for x in metrics
    ]


def _check_members(members, seeds):
    if not members or len(set(map(id, members))) < len(members):
        raise ValueError(
            "Expected one or more models, each of them once. Received: "
            f"members={[member.name for member in members]}."
        )
    outputs = [len(getattr(member, "outputs", None) or "1") for member in members]
    owned = [id(v) for member in members for v in member.trainable_variables]
    if max(outputs) > 1 or len(set(owned)) < len(owned):
        raise ValueError(
            "Expected members with one output each and no trainable weight in common: "
            "let `build` make new layers, or freeze those that the members share. "
            f"Received: members with {outputs} outputs and "
            f"{len(owned) - len(set(owned))} common weights."
        )
    if seeds is not None and len(seeds) != len(members):
        raise ValueError(
            f"Expected {len(members)} seeds, one for each member. Received: "
            f"seeds={seeds}."
        )


def _columns(weights):
    return weights.shape[1] if len(weights.shape) == 2 else None


def _check_batch(data, n_members):
    """Raise a `ValueError` unless a data set yields weights of the members."""
    is_sequence = isinstance(data, keras.utils.PyDataset)
    batch: Any = data[0] if is_sequence else getattr(data, "element_spec", ())
    weights = batch[2] if isinstance(batch, tuple | list) and len(batch) > 2 else None
    if isinstance(weights, dict):
        weights = weights["sample_weight"]
    if weights is None or _columns(weights) != n_members:
        shape = None if weights is None else tuple(weights.shape)
        raise ValueError(
            "Expected a `PyDataset` or `tf.data.Dataset` of `(x, y, weights)`, with "
            f"weights of shape (batch, {n_members}), as `bootstrap=True` needs them. "
            f"Received: weights of shape {shape}. Take rows of `bootstrap_weights"
            "(n_samples)`, or give `fit` arrays."
        )


def _check_no_class_weight(class_weight):
    if class_weight is not None:
        raise ValueError(
            "Expected no `class_weight` with `bootstrap=True`. Received: class_weight="
            f"{class_weight}. Give the weight of each sample as `sample_weight`."
        )


def _check_compile(optimizer, loss, loss_weights, *lists):
    nested = any(isinstance(x, list | tuple | dict) for x in (loss, loss_weights))
    nested |= any(
        isinstance(metrics, dict)
        or any(isinstance(x, list | tuple | dict) for x in metrics or ())
        for metrics in lists
    )
    if nested or loss_weights is not None:
        raise ValueError(
            "Expected the loss and the metrics of one member, such as `loss='mse', "
            "metrics=['mae']`, without `loss_weights`: all members have the same. "
            f"Received: loss={loss}, loss_weights={loss_weights}, "
            f"metrics={lists[0]}, weighted_metrics={lists[1]}."
        )
    if getattr(optimizer, "global_clipnorm", None):
        raise ValueError(
            "Expected an optimizer without `global_clipnorm`, a norm over the weights "
            f"of all members. Received: global_clipnorm={optimizer.global_clipnorm}. "
            "Use `clipnorm`, which is by weight."
        )
