import os
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_micronets import _keras_private, selection
from keras_micronets.edge import Member, Preprocessing
from keras_micronets.edge.bundle.from_json import from_json
from keras_micronets.edge.combine import combine
from keras_micronets.edge.tasks import CLASS_TASKS, PER_LABEL, SpreadScale, spread
from keras_micronets.ensemble.choose import (
    CLUSTERING,
    DEFAULT,
    check_combination,
    check_temperature,
    choose_members,
    choose_temperature,
    learner_columns,
)
from keras_micronets.ensemble.data import (
    as_targets,
    default_targets,
    predict_and_read,
)
from keras_micronets.ensemble.export import (
    choose_alarm_for,
    choose_exit,
    choose_format,
    convert_members,
    fit_to_files,
    score_members,
)
from keras_micronets.export import write_bundle, write_single
from keras_micronets.learners import as_learners
from keras_micronets.learners.external import common_task, predict_with
from keras_micronets.learners.inputs import (
    count_samples,
    is_for_keras,
    is_stream,
    row_reader,
)
from keras_micronets.learners.labels import encode

__all__ = ["EnsemblePruner", "negative_log_likelihood"]


@keras.saving.register_keras_serializable(package="keras_micronets")
def negative_log_likelihood(y_true: Any, y_pred: Any) -> Any:
    """Return the negative log-likelihood of each sample.

    Args:
        y_true: Labels of shape `(samples,)`, `(samples, 1)` or `(samples, classes)`.
        y_pred: Probabilities of shape `(samples, classes)`.
    """
    if y_true.shape == y_pred.shape and y_pred.shape[-1] > 1:
        return keras.losses.categorical_crossentropy(y_true, y_pred)
    return keras.losses.sparse_categorical_crossentropy(y_true, y_pred)


@keras.saving.register_keras_serializable(package="keras_micronets")
class EnsemblePruner(keras.Model):
    """Keep the best representatives of a pool of learners, as one Keras model.

    `prune` compares the learners by their predictions on held-out data and keeps some
    of them. By default clusters of learners propose representatives, and a member is
    kept only if it lowers the cross-validated loss; so there may be fewer than
    `n_members`, even one. The ensemble then predicts, evaluates, saves and loads like
    any Keras model; its outputs are those of one learner, as probabilities where there
    are classes. It holds the members only, never the candidates.

    Args:
        learners: The candidates: a `LearnerPool`; a list, or a dictionary by name, of
            Keras models, paths of `.tflite` or `.keras` files, scikit-learn
            estimators, and functions from inputs to predictions; or an array of
            predictions `(learners, samples, *outputs)`, with which only
            `prune(None, y)` works. `None` for a loaded ensemble. Defaults to `None`.
        n_members: Integer, the number of clusters and the largest number of members;
            other methods than the default keep exactly that many. For `method="auto"`
            also a list of integers to choose from; for clusters also `"silhouette"` or
            `"loss"`. With a `clusterer`, `None` or the number that it finds. `None`
            means 4 otherwise. Defaults to `None`.
        method: How members are chosen: a key of `selection.METHODS`, such as
            `"cluster"` (one learner per cluster, as in the papers), `"greedy"` or
            `"top_k"`; `"auto"` for the best of several in cross-validation; or a
            function with their signature. Defaults to `"cluster_then_forward"`; see
            `selection.cluster_then_forward`.
        representative: For `"cluster"`, which learner of each cluster is kept, and for
            the default method, which are proposed: `"accuracy"`, the most accurate
            (Prune2Edge's "diversity first"), `"loss"`, `"medoid"` or `"farthest"`; or
            `"best_cluster"`, all learners of the most accurate cluster ("accuracy
            first"). See `selection.cluster`. Defaults to `None`: `"accuracy"` for
            `"cluster"`, the two best by accuracy and by loss for the default method.
        clusterer: For both, a scikit-learn clusterer. `None` for k-means. Defaults to
            `None`.
        budget: Number, the limit on the members' total cost, in place of `method` and
            `n_members`; see `selection.within_budget`. Defaults to `None`.
        costs: The cost that `budget` limits: `"gzip_bytes"` or `"n_bytes"` of the
            learners' files, or one number per learner, such as milliseconds. The
            first is an estimate for Keras models. Defaults to `"gzip_bytes"`.
        combination: `"mean"` of the probabilities, weighted if the method gives
            weights (the default and `"greedy"` do); `"logit"`, the mean of their
            logarithms; `"vote"`, ties going to the larger mean; `"weights"`, a mean
            whose weights are fitted on the data given to `prune`; or `"median"`, for
            numbers only, which have no logarithms and votes. Defaults to `"mean"`.
        temperature: Temperature scaling of the combined probabilities, on the device
            too: `"fit"`, fitted on the data given to `prune` if that lowers their loss
            by more than its standard error (see `selection.choose_temperature`); a
            positive number; or `None`. Votes have none. For tasks that predict numbers,
            `"fit"` or `None` decide on `spread_scale_`, chosen by
            `selection.choose_spread_scale`. Defaults to `"fit"`.
        random_state: Integer seed of the method. Defaults to `None`.
        task: What the learners predict, one of `edge.TASKS`: `"multiclass"`,
            `"binary"` (one sigmoid or logit unit), `"multilabel"`, `"regression"` or
            `"reconstruction"` (autoencoders). It decides which loss the members lower;
            see `selection.Targets`. `None` for that of the learners, which is inferred
            from their compiled loss and their outputs. Defaults to `None`.
        from_logits: Boolean, whether the learners return logits, for learners that are
            in no pool. `None` to infer it from each. Defaults to `None`.
        class_names: List of the names of the classes in the order of the outputs, for
            labels that are names, and for exports. `None` for `classes_` of
            scikit-learn's learners, if there are any. Defaults to `None`.
        **kwargs: `name`, `dtype` and so on, as for any Keras model.

    Attributes:
        learners: The candidates; `learners.predict(x)` returns the predictions of
            all, `(learners, samples, *outputs)`.
        task_: The task of the learners; `None` before `prune` if it is unknown.
        selection_: The `selection.Selection`: indices, cluster labels, weights, and in
            `size` why there are so many members and their gain over the best learner.
        members_: The chosen models: Keras models, `Member` objects that run `.tflite`
            files, or objects with a `predict` for functions.
        temperature_: Float, the temperature in use; 1 changes nothing. It can be set,
            for example to the result of `selection.fit_temperature` on other data.
        spread_scale_: The `edge.SpreadScale` by which `spread` estimates the standard
            deviation of the error, or `None`. It can be set.
        report_: A `selection.SelectionReport`; it prints as a table.

    Example:

    ```python
    ensemble = keras_micronets.EnsemblePruner(pool, n_members=2, random_state=0)
    ensemble.prune(x_val, y_val)
    print(ensemble.report_)
    ensemble.compile(metrics=["accuracy"])
    ensemble.evaluate(x_test, y_test)
    ensemble.export("bundle", representative_data=x_train)
    ```

    References: Alhalabi, Gaber and Basurra, "Prune2Edge: A Multi-Phase Pruning
    Pipelines to Deep Ensemble Learning in IIoT" (arXiv:2004.04710) and "MicroNets".
    Clustering on probabilities follows Lazarevic and Obradovic 2001, calibration after
    averaging Rahaman and Thiery 2021.
    """

    def __init__(
        self,
        learners: Any = None,
        n_members: int | str | Sequence[int] | None = None,
        *,
        method: str | Callable = DEFAULT,
        representative: str | None = None,
        clusterer: Any = None,
        budget: float | None = None,
        costs: str | Sequence[float] = "gzip_bytes",
        combination: str = "mean",
        temperature: float | str | None = "fit",
        random_state: int | None = None,
        task: str | None = None,
        from_logits: bool | None = None,
        class_names: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        # Not the list itself: Keras would track the candidates as layers.
        self.learners: Any = as_learners(learners, task=task, from_logits=from_logits)
        self.n_members = n_members
        self.method = method
        self.representative = representative
        self.clusterer = clusterer
        self.budget = budget
        self.costs = costs
        self.combination = combination
        self.temperature = temperature
        self.random_state = random_state
        self.task = task
        self.class_names = None if class_names is None else [*class_names]
        self.task_ = task
        self.members_ = []
        self.learners_ = ()
        self.from_logits_ = []
        self.weights_ = None
        self._temperature = 1.0
        self.spread_scale_ = None
        self._forward = None

    @property
    def temperature_(self) -> float:
        return self._temperature

    @temperature_.setter
    def temperature_(self, temperature: float) -> None:
        check_temperature(float(temperature), self.combination)
        self._temperature = float(temperature)
        self._forget_functions()

    def prune(
        self,
        x: Any,
        y: Any = None,
        *,
        sample_weight: Any = None,
        batch_size: int = 256,
        verbose: int | str = "auto",
    ) -> "EnsemblePruner":
        """Choose the members on held-out data, and calibrate their combination.

        Args:
            x: Inputs, neither training nor test data, as `fit` takes them: an array, a
                dictionary or list of arrays for models of several inputs, or a
                `tf.data.Dataset`, `PyDataset`, PyTorch `DataLoader` or generator of
                batches `(x, y)`, which is read once. Scikit-learn's learners and
                functions receive frames, sparse matrices and lists of texts as they
                are. `None` if the learners are an array of predictions.
            y: Targets. Labels of shape `(samples,)`, integers, one-hot
                `(samples, classes)`, or the names or values in `class_names` or
                `classes_`; zeros and ones `(samples, labels)` for several labels;
                numbers for a regression; for a reconstruction `None` means `x`. `None`
                with a dataset.
            sample_weight: Numbers of shape `(samples,)`, the weight of each sample in
                losses and scores. Defaults to `None`, equal weights.
            batch_size: Integer, samples per batch. Defaults to `256`.
            verbose: `"auto"` or 1 for a progress bar, 0 for silence. Defaults to
                `"auto"`.

        Returns:
            The ensemble itself.

        Raises:
            ValueError: If the pool is empty or smaller than `n_members`, the learners'
                outputs are not probabilities (the message names the learner), the
                labels do not fit, or an argument of the constructor is unknown. The
                ensemble then stays unchanged.
        """
        self._check_prunable()
        task = common_task(self.learners, self.task)
        check_combination(self.combination, self.temperature, task)
        predictions, targets = self._predict_all(
            task, x, y, sample_weight, batch_size, verbose
        )
        chosen = choose_members(self, predictions, targets, verbose)
        rule = selection.as_combined(chosen, predictions, targets, self.combination)
        learners = [self.learners[int(i)] for i in chosen.indices]
        kept = predictions[chosen.indices]
        together = combine(kept, **rule, task=targets.task)
        temperature = choose_temperature(self, together, targets)
        spread_scale = None
        if self.temperature == "fit" and not targets.has_classes:
            spread_scale = selection.choose_spread_scale(kept, targets, **rule)
        report = selection.selection_report(
            predictions,
            targets,
            chosen,
            **learner_columns(self.learners),
            ensemble_probabilities=together,
            temperature=temperature,
            spread_scale=spread_scale,
        )
        self.task_ = task
        if self.class_names is None and (classes := self._classes()) is not None:
            self.class_names = [str(label) for label in classes]
        self._set_members(learners, rule["weights"])
        self.temperature_, self.spread_scale_ = temperature, spread_scale
        self.selection_ = chosen
        self.report_ = report
        return self

    def _predict_all(self, task, x, y, sample_weight, batch_size, verbose):
        """Return the checked predictions of the candidates, and the targets."""
        y = default_targets(x, y, task)
        predictions, y, weights = predict_and_read(
            self.learners, x, y, sample_weight, batch_size, verbose
        )
        targets = as_targets(y, task, self._classes(), weights)
        return targets.check(predictions, [x.name for x in self.learners])

    def _classes(self):
        """Return the labels of the classes, if they are known."""
        classes = getattr(self.learners, "classes", None)
        return self.class_names if classes is None else classes.tolist()

    def predict(
        self, x: Any, batch_size: int | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Return the combined predictions, `(samples, *outputs)`.

        Args:
            x: As for `keras.Model`. Members that are no Keras models receive frames,
                sparse matrices and texts as they are, as in `prune`, a batch at a time.
            batch_size: Integer, samples per batch. `None` for 32, or 256 for what only
                other members than Keras models take. Defaults to `None`.
            *args, **kwargs: As for `keras.Model.predict`.

        Raises:
            ValueError: If `prune` was not called yet, or `x` is empty.
        """
        if not self.members_ or self._is_keras() or is_for_keras(x):
            return super().predict(x, batch_size, *args, **kwargs)
        n_samples, batch_size, read = count_samples(x), batch_size or 256, row_reader(x)
        if not n_samples:
            raise ValueError("Expected at least one sample. Received: none.")

        def combined(indices):
            rows = ops.convert_to_numpy(indices)
            part = read(slice(int(rows[0]), int(rows[-1]) + 1))
            predictions = self._predict_members(part, batch_size)
            return ops.convert_to_tensor(combine(predictions, **self._rule()))

        with self._forward_is(combined):
            return super().predict(np.arange(n_samples), batch_size, *args, **kwargs)

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Return the compiled loss and metrics, as `keras.Model` does.

        Args:
            x, batch_size: As for `predict`.
            y: As for `keras.Model`. If some members are not Keras models, also labels
                by name or value, as for `prune`.
            *args, **kwargs: As for `keras.Model.evaluate`.

        Raises:
            ValueError: If `prune` or `compile` was not called yet, or a label is none
                of the classes.
        """
        is_known = self.compiled and self.members_ and x is not None
        if not is_known or self._is_keras() or is_stream(x):
            return super().evaluate(x, y, batch_size, *args, **kwargs)
        task = self._rule()["task"]
        y = encode(default_targets(x, y, task), self._classes(), task)
        predictions = self.predict(x, batch_size, verbose=0)
        # Keras traces a model to build its metrics: members have to be run before.
        with self._forward_is(lambda inputs: inputs):
            return super().evaluate(predictions, y, batch_size, *args, **kwargs)

    @contextmanager
    def _forward_is(self, function):
        """Have `call` return the results of a function of its inputs."""
        self._forward = function
        try:
            yield
        finally:
            self._forward = None

    def call(self, inputs: Any, training: bool = False) -> Any:
        self._check_pruned()
        if self._forward is not None:
            return self._forward(inputs)
        pairs = zip(self.members_, self.from_logits_, strict=True)
        task = self._rule()["task"]
        predictions = [
            _predictions(member, from_logits, task, inputs)
            for member, from_logits in pairs
        ]
        return combine(ops.stack(predictions), **self._rule(), xp=ops)

    def _rule(self):
        rule = self.combination if self.weights_ is None else "weights"
        return {
            "rule": rule,
            "weights": self.weights_,
            "temperature": self._temperature,
            "task": self.task_ or "multiclass",
        }

    def spread(self, x: Any, *, batch_size: int = 256) -> np.ndarray:
        """Return how much the members differ, a measure of uncertainty.

        With a `spread_scale_` it estimates the standard deviation of the error.

        Args:
            x: Inputs as for `prune`, without streams.
            batch_size: Integer, samples per batch. Defaults to `256`.

        Returns:
            Array of the standard deviations of the members' predictions, of shape
            `(samples, *outputs)`; for the task `"reconstruction"` `(samples,)`.

        Raises:
            ValueError: If `prune` was not called yet.
        """
        self._check_pruned()
        rule = self._rule()
        predictions = self._predict_members(x, batch_size)
        values = spread(predictions, rule["weights"], task=rule["task"])
        return values if self.spread_scale_ is None else self.spread_scale_(values)

    def _predict_members(self, x, batch_size):
        pairs = zip(self.members_, self.from_logits_, strict=True)
        task = self._rule()["task"]
        predictions = (
            predict_with(member, x, batch_size, task=task, from_logits=logits)
            for member, logits in pairs
        )
        return np.stack([*predictions])

    def compile(
        self, optimizer: Any = "rmsprop", loss: Any = None, **kwargs: Any
    ) -> None:
        """Configure the ensemble as any Keras model.

        Args:
            optimizer: As for `keras.Model`. Defaults to `"rmsprop"`.
            loss: As for `keras.Model`. `None` for the negative log-likelihood of
                sparse or one-hot labels, the binary crossentropy, or the mean squared
                error, by the task. Defaults to `None`.
            **kwargs: As for `keras.Model`. If some members are not Keras models,
                `run_eagerly` is always `True`, and `evaluate` takes datasets on
                TensorFlow only: the other backends trace the members.
        """
        if not self._is_keras():
            kwargs["run_eagerly"] = True
        super().compile(optimizer, loss or self._default_loss(), **kwargs)

    def _default_loss(self):
        if self.task_ in PER_LABEL:
            return "binary_crossentropy"
        if self.task_ in (None, "multiclass"):
            return negative_log_likelihood
        return "mean_squared_error"

    def get_compile_config(self) -> dict[str, Any]:
        config = super().get_compile_config()
        # `fit` builds the optimizer, and on JAX and PyTorch `evaluate` does.
        is_built = bool(config) and self.optimizer is not None and self.optimizer.built
        return {**config, "has_optimizer_state": True} if is_built else config

    def compile_from_config(self, config: dict[str, Any]) -> None:
        config = dict(config)
        has_state = config.pop("has_optimizer_state", False)
        self.compile(**keras.saving.deserialize_keras_object(config))
        if has_state:
            self.optimizer.build(self.trainable_variables)

    def export(
        self,
        filepath: str | os.PathLike,
        format: str | None = None,
        *,
        quantization: str | None = "int8",
        representative_data: Any = None,
        input_shape: Any = None,
        evaluation_data: Any = None,
        early_exit_data: Any = None,
        early_exit_tolerance: float = 0.0,
        temperature_data: Any = None,
        alarm_data: Any = None,
        false_alarm_rate: float = 0.01,
        class_names: Sequence[str] | None = None,
        preprocessing: Preprocessing | dict | None = None,
        signing_key: str | os.PathLike | bytes | None = None,
        **kwargs: Any,
    ) -> Any:
        """Write the members as `.tflite` files with a runner, or as Keras does.

        Every converted file is loaded, run and compared with its Keras model. The
        written bundle is verified and run once, before it replaces an older one.

        Args:
            filepath: Path of the export. An older export there is replaced.
            format: `"bundle"`, a folder with one file per member and the runner;
                `"zip"`, the same as one `.zip`; `"tflite"`, one `.tflite` file of all
                members and their combination, for runtimes that take one model only
                (see `export.write_single`); or a format of `keras.Model.export`,
                which then takes all further arguments. Defaults to `None`: by the
                suffix of the path, `.zip`, `.tflite` or another.
            quantization: As for `export_tflite`. Members that are `.tflite` files
                already are copied. Defaults to `"int8"`.
            representative_data: Some hundred training inputs, as for
                `export_tflite`, for members without learned ranges. Defaults to
                `None`.
            input_shape: Tuple of the sizes of a sample, for members that leave sizes
                open, as for `export_tflite`. Defaults to `None`.
            evaluation_data: Tuple `(x, y)`, preprocessed inputs and targets, or a
                dataset of batches of them: the exported files are scored on it, and
                the scores go into the manifest. Not for `"tflite"`. Defaults to `None`.
            early_exit_data: Tuple `(x, y)`, held-out inputs and labels other than
                `evaluation_data`, on which `selection.choose_early_exit` chooses when
                the device may skip members. Not for `"tflite"`. Defaults to `None`,
                no early exit.
            early_exit_tolerance: Share of samples whose class may change by an early
                exit, such as `0.001`. Defaults to `0.0`.
            temperature_data: Tuple `(x, y)`, held-out inputs and labels such as those
                given to `prune`: the temperature is fitted again, to the outputs of
                the exported files, if that lowers their loss by more than its standard
                error; for numbers, the scale of the spread. Defaults to `None`:
                `temperature_` or `spread_scale_` is kept.
            alarm_data: Held-out normal inputs, for the task `"reconstruction"`:
                `edge.choose_alarm` chooses on them the error above which a sample is
                an anomaly. Not for `"tflite"`. Defaults to `None`, no alarm.
            false_alarm_rate: Float, the wanted share of false alarms among normal
                samples. Defaults to `0.01`.
            class_names: List of the names of the classes, labels or predicted numbers;
                for the task `"binary"` two, that of the event last. Not for
                `"tflite"`. Defaults to `None`: those of the ensemble, if they are
                known.
            preprocessing: `edge.Preprocessing` or a dictionary of its arguments,
                applied to raw inputs on the device. Defaults to `None`.
            signing_key: As for `write_bundle`. Not for `"tflite"`. Defaults to
                `None`, no signature.
            **kwargs: For the formats of `keras.Model.export`.

        Returns:
            The path of the export.

        Raises:
            ValueError: If the ensemble has no members yet, format and path do not fit,
                or as `export_tflite`, `write_bundle` and `write_single` do. Nothing is
                written then.
            TypeError: If an argument is unknown.
        """
        self._check_pruned()
        format = choose_format(
            filepath,
            format,
            kwargs,
            class_names=class_names,
            evaluation_data=evaluation_data,
            early_exit_data=early_exit_data,
            alarm_data=alarm_data,
            signing_key=signing_key,
        )
        if format not in ("bundle", "zip", "tflite"):
            return super().export(filepath, format=format, **kwargs)
        members = convert_members(
            self.members_,
            self.learners_,
            self.from_logits_,
            task=self._rule()["task"],
            quantization=quantization,
            representative_data=representative_data,
            input_shape=input_shape,
        )
        class_names = class_names or self.class_names
        rule, spread_scale = fit_to_files(
            members, temperature_data, self._rule(), self.spread_scale_, class_names
        )
        common = {
            "combination": rule["rule"],
            "weights": rule["weights"],
            "temperature": rule["temperature"],
            "preprocessing": preprocessing,
        }
        if format == "tflite":
            return write_single(filepath, members, **common)
        return write_bundle(
            filepath,
            members,
            **common,
            spread_scale=spread_scale,
            class_names=class_names,
            accuracies=score_members(members, evaluation_data, rule, class_names),
            early_exit=choose_exit(
                members, early_exit_data, rule, class_names, early_exit_tolerance
            ),
            alarm=choose_alarm_for(members, alarm_data, rule, false_alarm_rate),
            signing_key=signing_key,
        )

    def write_report(
        self,
        path: str | os.PathLike,
        x: Any,
        y: Any = None,
        *,
        sample_weight: Any = None,
        batch_size: int = 256,
        **options: Any,
    ) -> Path:
        """Write the choice of the members and its reasons as one HTML page with plots.

        Args:
            path: Path of the page.
            x, y, sample_weight: The data that was given to `prune`.
            batch_size: Integer, samples per batch. Defaults to `256`.
            **options: As for `selection.write_report`: `title`, `methods`,
                `milliseconds` and so on.

        Returns:
            The path of the page.

        Raises:
            ImportError: If matplotlib is not installed.
            ValueError: If `prune` was not called yet, or as `selection.write_report`
                does.
        """
        self._check_chosen()
        predictions, targets = self._predict_all(
            self.task_, x, y, sample_weight, batch_size, 0
        )
        kept, rule = predictions[self.selection_.indices], self._rule()
        arguments = {
            **learner_columns(self.learners),
            "ensemble_probabilities": combine(
                kept, rule=rule["rule"], weights=rule["weights"], task=targets.task
            ),
            "temperature": None if self.temperature_ == 1 else self.temperature_,
            "spread_scale": self.spread_scale_,
            **options,
        }
        return selection.write_report(
            path, predictions, targets, self.selection_, **arguments
        )

    def save(self, filepath: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """Save the ensemble as any Keras model.

        Raises:
            ValueError: If the members, the method or the clusterer cannot be restored
                from a file, see `get_config`. Nothing is written then.
        """
        self.get_config()
        super().save(filepath, *args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """Return the members and all arguments but `learners`, the candidates.

        Raises:
            ValueError: If a member is not a Keras model, `method` is a function that
                is not registered with Keras, or `clusterer` is given: these cannot be
                restored.
        """
        if not self._is_keras():
            raise ValueError(
                "Expected members that are Keras models: only these can be saved. "
                "Received: others. Use `export` for .tflite files, or prune Keras "
                "models."
            )
        if self.clusterer is not None:
            raise ValueError(
                "Expected clusterer=None: a scikit-learn object cannot be saved with a "
                f"Keras model. Received: clusterer={self.clusterer!r}. Set "
                "`ensemble.clusterer = None` once the members are chosen."
            )
        members = [keras.saving.serialize_keras_object(m) for m in self.members_]
        for member in members:
            member.pop("compile_config", None)  # the ensemble is compiled, they are not
        return {
            **super().get_config(),
            "n_members": np.asarray(self.n_members).tolist(),
            "method": _serialize_method(self.method),
            "representative": self.representative,
            "budget": self.budget,
            "costs": np.asarray(self.costs).tolist(),
            "combination": self.combination,
            "temperature": self.temperature,
            "random_state": self.random_state,
            "task": self.task_,
            "class_names": self.class_names,
            "members": members,
            "from_logits": self.from_logits_,
            "weights": self.weights_,
            "fitted_temperature": self.temperature_,
            "spread_scale": self.spread_scale_ and asdict(self.spread_scale_),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "EnsemblePruner":
        config = dict(config)
        members = config.pop("members")
        from_logits, weights = config.pop("from_logits"), config.pop("weights")
        fitted = config.pop("fitted_temperature", 1.0)  # version 0.1.0 had none
        scale = config.pop("spread_scale", None)
        if isinstance(config.get("method"), dict):
            config["method"] = keras.saving.deserialize_keras_object(config["method"])
        ensemble = cls(**config)
        if members:
            models = [keras.saving.deserialize_keras_object(m) for m in members]
            ensemble._track_members(models, from_logits, weights)
        ensemble.temperature_ = fitted
        if scale is not None:
            ensemble.spread_scale_ = from_json(scale, SpreadScale, "spread_scale")
        return ensemble

    def build(self, input_shape: Any) -> None:
        """Mark the ensemble as built: its members are."""
        self.built = True

    def _set_members(self, learners, weights):
        members = [learner.load() for learner in learners]
        self.learners_ = tuple(learners)
        if any(member is None for member in members):  # an array of predictions
            self.weights_ = weights
            return
        self._track_members(members, [x.from_logits for x in learners], weights)

    def _track_members(self, members, from_logits, weights):
        _keras_private.replace_layers(self, "members_", members)
        self.from_logits_ = [bool(value) for value in from_logits]
        self.weights_ = weights
        self.build(_input_shape(members[0]))
        self.run_eagerly = self.run_eagerly or not self._is_keras()
        optimizer = getattr(self, "optimizer", None)
        if optimizer is not None and optimizer.built:  # for the former members
            self.optimizer = optimizer.from_config(optimizer.get_config())
        self._forget_functions()

    def _forget_functions(self):
        """Have `predict` and others compiled again, since they would not change."""
        for name in ("train_function", "test_function", "predict_function"):
            setattr(self, name, None)

    def _is_keras(self):
        return all(isinstance(member, keras.Model) for member in self.members_)

    def _check_prunable(self):
        if self.learners is None:
            raise ValueError(
                "Expected an ensemble that was made with learners. Received: "
                "learners=None. A loaded ensemble only predicts; to choose again, make "
                "one with `EnsemblePruner(pool)`."
            )
        if self.method not in CLUSTERING and self.clusterer is not None:
            raise ValueError(
                f"Expected method to be one of {CLUSTERING}, since a clusterer is "
                "given; leave out `clusterer` or change `method`. Received: "
                f"method={self.method!r}."
            )

        check_temperature(self.temperature, self.combination)

    def _check_pruned(self):
        if not self.members_:
            self._check_chosen()
            raise ValueError(
                f"The ensemble {self.name!r} was chosen among bare probabilities: "
                "it has no models. Load those that `selection_.indices` names."
            )

    def _check_chosen(self):
        if not self.learners_:
            raise ValueError(
                f"The ensemble {self.name!r} has no members yet. Call "
                "`prune(x, y)` with held-out data first."
            )


def _predictions(member, from_logits, task, inputs):
    if not isinstance(member, keras.Model):
        x = keras.tree.map_structure(ops.convert_to_numpy, inputs)
        return ops.convert_to_tensor(member.predict(x))
    outputs = ops.cast(member(inputs, training=False), "float32")
    if task in PER_LABEL:
        return ops.sigmoid(outputs) if from_logits else outputs
    if task not in CLASS_TASKS:
        return outputs
    if from_logits:
        return ops.softmax(outputs)
    # A fake quantiser rounds probabilities, so that their sum may differ from one.
    return ops.divide_no_nan(outputs, ops.sum(outputs, axis=-1, keepdims=True))


def _serialize_method(method):
    if isinstance(method, str):
        return method
    name = keras.saving.get_registered_name(method)
    if keras.saving.get_registered_object(name) is not method:
        raise ValueError(
            "Expected `method` as a key of `selection.METHODS`, or as a function "
            "registered with `keras.saving.register_keras_serializable`: others cannot "
            f"be restored. Received: method={method!r}."
        )
    return keras.saving.serialize_keras_object(method)


def _input_shape(member):
    if isinstance(member, keras.Model):
        return member.input_shape
    return (None, *member.input_shape) if isinstance(member, Member) else None
