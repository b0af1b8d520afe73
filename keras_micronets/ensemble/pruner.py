import os
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np
from keras import ops

from keras_micronets import _keras_private, selection
from keras_micronets.edge.combine import combine
from keras_micronets.edge.member import Member
from keras_micronets.ensemble.export import bundle_members, check_layout
from keras_micronets.export import write_bundle, write_single
from keras_micronets.learners import as_learners

#: Predictions of so many learners times samples lie on disk, not in memory.
_MANY = 10_000_000


@keras.saving.register_keras_serializable(package="keras_micronets")
def negative_log_likelihood(y_true, y_pred):
    """Return the negative log-likelihood a sample, of sparse or one-hot labels.

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

    `prune` compares the learners by what they predict on held-out data and keeps some:
    by default it clusters them and keeps one a cluster. From then on the ensemble
    predicts, evaluates, saves and loads like any Keras model; its outputs are class
    probabilities. Only the members are part of it, never the candidates.

    Args:
        learners: A `LearnerPool`; a list, or a dictionary from names, of Keras models,
            paths of `.tflite` or `.keras` files, scikit-learn classifiers, and
            functions from inputs to probabilities; an array of shape `(learners,
            samples, classes)`, what learners predict, of which `prune(None, y)` then
            says which to keep; `None` for an ensemble that was loaded. Defaults to
            `None`.
        n_members: Integer, how many to keep, the number of clusters; for
            `method="auto"` also several to choose among, for clusters `"silhouette"`
            or `"loss"`. With a `clusterer`, `None` or the number that it finds. `None`
            is 4 otherwise. Defaults to `None`.
        method: How learners are chosen: a name out of `selection.METHODS`, as
            `"cluster"`, `"greedy"` or `"top_k"`; `"auto"`, the one that does best in
            cross-validation; or a function with the signature of these. Defaults to
            `"cluster"`.
        representative: For `"cluster"`, what is kept of each cluster: `"accuracy"`, the
            most accurate learner (Prune2Edge's "diversity first"), `"loss"`,
            `"medoid"`, `"farthest"`, or `"best_cluster"`, all learners of the most
            accurate cluster ("accuracy first"); see `selection.cluster`. Defaults to
            `"accuracy"`.
        clusterer: For `"cluster"`, a scikit-learn clusterer. `None` for k-means.
            Defaults to `None`.
        budget: Number, what the members may cost together, instead of a method and
            how many: see `selection.within_budget`. Defaults to `None`.
        costs: What `budget` limits: `"gzip_bytes"` or `"n_bytes"` of the learners'
            files, or one number a learner, as multiply-accumulates or milliseconds.
            Defaults to `"gzip_bytes"`, for Keras models an estimate.
        combination: `"mean"` of the probabilities, with the weights that the method
            gives (`"greedy"` does); `"logit"`, the mean of their logarithms; `"vote"`
            with ties to the larger mean; or `"weights"`: a weighted mean whose weights
            are fitted on the data given to `prune`. Defaults to `"mean"`.
        random_state: Integer that seeds the method. Defaults to `None`.
        **kwargs: `name`, `dtype` and so on, as for any Keras model.

    Attributes:
        learners: The candidates; `learners.predict(x)` returns the probabilities of
            all, `(learners, samples, classes)`.
        selection_: The `selection.Selection`: indices, cluster labels, weights.
        members_: The chosen models: Keras models, `Member` objects that LiteRT runs
            for `.tflite` files, or objects with a `predict` for functions.
        report_: A `selection.SelectionReport`; it prints as a table.

    Example:

    ```python
    ensemble = keras_micronets.EnsemblePruner(pool, n_members=4, random_state=0)
    ensemble.prune(x_val, y_val)
    print(ensemble.report_)
    ensemble.compile(metrics=["accuracy"])
    ensemble.evaluate(x_test, y_test)
    ensemble.export("bundle", representative_data=x_train[:500])
    ```

    References: Alhalabi, Gaber and Basurra, "Prune2Edge: A Multi-Phase Pruning
    Pipelines to Deep Ensemble Learning in IIoT" (arXiv:2004.04710) and "MicroNets".
    Clustering on probabilities follows Lazarevic and Obradovic 2001.
    """

    def __init__(
        self,
        learners=None,
        n_members: int | str | Sequence[int] | None = None,
        *,
        method: str | Callable = "cluster",
        representative: str = "accuracy",
        clusterer=None,
        budget: float | None = None,
        costs: str | Sequence[float] = "gzip_bytes",
        combination: str = "mean",
        random_state: int | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        # Not the list itself: Keras would take the candidates for layers.
        self.learners = as_learners(learners)
        self.n_members = n_members
        self.method = method
        self.representative = representative
        self.clusterer = clusterer
        self.budget = budget
        self.costs = costs
        self.combination = combination
        self.random_state = random_state
        self.members_ = []
        self.learners_ = ()
        self.from_logits_ = []
        self.weights_ = None

    def prune(
        self, x, y, *, batch_size: int = 256, verbose: int | str = "auto"
    ) -> "EnsemblePruner":
        """Choose the members on held-out data.

        Args:
            x: Array of shape `(samples, ...)`. Neither training nor test data. `None`
                if the learners are bare probabilities.
            y: Labels, sparse `(samples,)` or one-hot `(samples, classes)`.
            batch_size: Integer, samples a batch. Defaults to `256`.
            verbose: `"auto"` or 1 for a progress bar, 0 for silence. Defaults to
                `"auto"`.

        Returns:
            The ensemble itself.

        Raises:
            ValueError: If the pool is empty, has fewer learners than members are
                wanted, or its learners' outputs are no probabilities; if the labels
                do not fit; or if an argument of the constructor is unknown. The
                ensemble is then as it was.
        """
        self._check_prunable()
        probabilities = self._predict_all(x, batch_size, verbose)
        chosen = self._choose(probabilities, y, verbose)
        how = selection.as_combined(chosen, probabilities, y, self.combination)
        learners = [self.learners[int(i)] for i in chosen.indices]
        report = self._make_report(probabilities, y, chosen, how)
        self._set_members(learners, how["weights"])
        self.selection_ = chosen
        self.report_ = report
        return self

    def _predict_all(self, x, batch_size, verbose):
        many = x is not None and len(self.learners) * len(x) > _MANY
        return self.learners.predict(
            x, batch_size=batch_size, verbose=verbose, mapped=many
        )

    def _choose(self, probabilities, y, verbose):
        seed = self.random_state
        if self.budget is not None:
            return selection.within_budget(
                probabilities, y, self.budget, costs=self._costs(), random_state=seed
            )
        n_members = self.n_members
        if n_members is None and self.clusterer is None:
            n_members = 4
        options = {}
        if self.method == "cluster":
            options = {
                "clusterer": self.clusterer,
                "representative": self.representative,
            }
        if self.method == "auto":
            options = {"verbose": 1 if verbose == "auto" else verbose}
        method = selection.as_method(self.method)
        return method(probabilities, y, n_members, random_state=seed, **options)

    def _costs(self):
        if not isinstance(self.costs, str):
            return self.costs
        costs = [getattr(learner, self.costs) for learner in self.learners]
        if None in costs:
            raise ValueError(
                f"Expected learners whose {self.costs} are known. Received: "
                f"{self.learners[costs.index(None)].name!r}, of which they are not. "
                "Give `costs` as numbers, one a learner."
            )
        return costs

    def call(self, inputs, training=False):
        self._check_pruned()
        probabilities = ops.stack(
            [
                self._member_probabilities(member, from_logits, inputs)
                for member, from_logits in zip(
                    self.members_, self.from_logits_, strict=True
                )
            ]
        )
        return combine(probabilities, **self._rule(), xp=ops)

    def _rule(self):
        if self.weights_ is None:
            return {"rule": self.combination}
        return {"rule": "weights", "weights": self.weights_}

    def compile(self, optimizer="rmsprop", loss=None, **kwargs):
        """Configure the ensemble as any Keras model.

        Args:
            optimizer: As for `keras.Model`. Defaults to `"rmsprop"`.
            loss: As for `keras.Model`. `None` for the negative log-likelihood, of
                sparse or one-hot labels. Defaults to `None`.
            **kwargs: As for `keras.Model`. With members that are no Keras models
                `run_eagerly` is always `True`, and `evaluate` works on TensorFlow
                alone: Keras's other backends trace the members, for which they have
                to be Keras models. `predict` works on all.
        """
        if not self._is_keras():
            kwargs["run_eagerly"] = True
        super().compile(optimizer, loss or negative_log_likelihood, **kwargs)

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))

    def export(
        self,
        filepath: str | os.PathLike,
        format: str = "bundle",
        *,
        layout: str = "bundle",
        quantization: str | None = "int8",
        representative_data=None,
        evaluation_data: tuple | None = None,
        early_exit_data: tuple | None = None,
        early_exit_tolerance: float = 0.0,
        class_names=None,
        preprocessing=None,
        signing_key: str | os.PathLike | bytes | None = None,
        **kwargs,
    ):
        """Write the members as `.tflite` files with a runner, or as Keras does.

        Args:
            filepath: Path of the bundle: a folder, or one zip if it ends in `.zip`. An
                older bundle there is replaced.
            format: `"bundle"`, or a format of `keras.Model.export`, to which all
                else is then left. Defaults to `"bundle"`.
            layout: `"bundle"`, or `"single"`: one `.tflite` file of all members and
                their combination, for runtimes that take just one model, see
                `export.write_single`. `filepath` then ends in `.tflite`; names of
                classes, scores, early exits and signatures have no place in it.
                Defaults to `"bundle"`.
            quantization: As for `export_tflite`. Members that are `.tflite` files
                already are taken as they are. Defaults to `"int8"`.
            representative_data: Some hundred training inputs, as for
                `export_tflite`, for members without learned ranges. Defaults to
                `None`.
            evaluation_data: Tuple `(x, y)`, inputs as the members take them, after
                any preprocessing: the exported files are scored on it, and the
                scores go into the manifest. Defaults to `None`.
            early_exit_data: Tuple `(x, y)`, held-out inputs and labels, as for
                `evaluation_data` and no part of it: what the exported files say of
                them decides when the device may leave members out, see
                `selection.choose_early_exit`. Defaults to `None`: never.
            early_exit_tolerance: Share of samples whose class may change by that, such
                as `0.001`. Defaults to `0.0`.
            class_names: List of names for the classes. Defaults to `None`.
            preprocessing: `edge.Preprocessing` or a dictionary of its arguments, what
                the device does to raw inputs. Defaults to `None`.
            signing_key: As for `write_bundle`. Defaults to `None`, no signature.
            **kwargs: For Keras's own formats.

        Returns:
            The path of the bundle, or of the file.

        Raises:
            ValueError: If the ensemble has no members yet, or as `export_tflite`,
                `write_bundle` and `write_single` do. Nothing is written then.
        """
        self._check_pruned()
        if format != "bundle":
            return super().export(filepath, format=format, **kwargs)
        check_layout(
            layout,
            class_names=class_names,
            evaluation_data=evaluation_data,
            early_exit_data=early_exit_data,
            signing_key=signing_key,
        )
        members = bundle_members(
            self.members_,
            self.learners_,
            self.from_logits_,
            quantization=quantization,
            representative_data=representative_data,
        )
        how = {
            "combination": self._rule()["rule"],
            "weights": self.weights_,
            "preprocessing": preprocessing,
        }
        if layout == "single":
            return write_single(filepath, members, **how)
        return write_bundle(
            filepath,
            members,
            **how,
            class_names=class_names,
            accuracies=self._accuracies(members, evaluation_data),
            early_exit=self._early_exit(members, early_exit_data, early_exit_tolerance),
            signing_key=signing_key,
        )

    def write_report(
        self, path: str | os.PathLike, x, y, *, batch_size: int = 256, **options
    ) -> Path:
        """Write who was kept, and why, as one HTML page with pictures.

        Args:
            path: Path of the page.
            x, y: The data that was given to `prune`.
            batch_size: Integer, samples a batch. Defaults to `256`.
            **options: As for `selection.write_report`: `title`, `methods`,
                `milliseconds` and so on.

        Returns:
            The path of the page.

        Raises:
            ImportError: If matplotlib is not installed.
            ValueError: If nothing was chosen yet, or as `selection.write_report` does.
        """
        self._check_chosen()
        probabilities = self._predict_all(x, batch_size, 0)
        kept = probabilities[self.selection_.indices]
        how = {
            **self._sizes(),
            "ensemble_probabilities": combine(kept, **self._rule()),
            **options,
        }
        return selection.write_report(path, probabilities, y, self.selection_, **how)

    def _sizes(self):
        learners = list(self.learners)
        return {
            "names": [learner.name for learner in learners],
            "sparsity": [learner.sparsity for learner in learners],
            # A .keras file is no measure of what goes to the device.
            "n_bytes": [None if x.is_keras else x.n_bytes for x in learners],
            "gzip_bytes": [learner.gzip_bytes for learner in learners],
        }

    def save(self, filepath, *args, **kwargs):
        """Save the ensemble as any Keras model.

        Raises:
            ValueError: If the members are not Keras models. Nothing is written then.
        """
        if not self._is_keras():
            raise ValueError(
                "Expected members that are Keras models: only these can be saved. "
                "Received: others. Use `export` for .tflite files, or prune Keras "
                "models."
            )
        super().save(filepath, *args, **kwargs)

    def get_config(self):
        members = [keras.saving.serialize_keras_object(m) for m in self.members_]
        for member in members:
            member.pop("compile_config", None)  # the ensemble's own counts
        return {
            **super().get_config(),
            "n_members": self.n_members,
            "method": self.method if isinstance(self.method, str) else "cluster",
            "representative": self.representative,
            "combination": self.combination,
            "random_state": self.random_state,
            "members": members,
            "from_logits": self.from_logits_,
            "weights": self.weights_,
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        members = config.pop("members")
        from_logits, weights = config.pop("from_logits"), config.pop("weights")
        ensemble = cls(**config)
        if members:
            ensemble._track_members(
                [keras.saving.deserialize_keras_object(m) for m in members],
                from_logits,
                weights,
            )
        return ensemble

    def build(self, input_shape):
        """The members are built already."""
        self.built = True

    def _set_members(self, learners, weights):
        members = [learner.load() for learner in learners]
        self.learners_ = tuple(learners)
        if any(member is None for member in members):  # bare probabilities
            self.weights_ = weights
            return
        self._track_members(members, [x.from_logits for x in learners], weights)

    def _track_members(self, members, from_logits, weights):
        _keras_private.replace_layers(self, "members_", members)
        self.from_logits_ = [bool(value) for value in from_logits]
        self.weights_ = weights
        self.build(_input_shape(members[0]))
        self.run_eagerly = self.run_eagerly or not self._is_keras()
        for name in ("train_function", "test_function", "predict_function"):
            setattr(self, name, None)  # compiled for other members

    def _member_probabilities(self, member, from_logits, inputs):
        if not isinstance(member, keras.Model):
            return ops.convert_to_tensor(member.predict(ops.convert_to_numpy(inputs)))
        outputs = member(inputs, training=False)
        outputs = ops.cast(outputs, "float32")
        if from_logits:
            return ops.softmax(outputs)
        # A fake quantiser rounds probabilities: their sum misses one.
        return ops.divide_no_nan(outputs, ops.sum(outputs, axis=-1, keepdims=True))

    def _is_keras(self):
        return all(isinstance(member, keras.Model) for member in self.members_)

    def _make_report(self, probabilities, y, chosen, how):
        kept = probabilities[chosen.indices]
        return selection.selection_report(
            probabilities,
            y,
            chosen,
            **self._sizes(),
            ensemble_probabilities=combine(kept, **how),
        )

    def _accuracies(self, members, evaluation_data):
        if evaluation_data is None:
            return {}
        x, y = np.asarray(evaluation_data[0]), evaluation_data[1]
        probabilities = _predictions(members, x)
        together = combine(probabilities, **self._rule())
        y = selection.as_labels(y, together.shape[-1], len(x))
        scores = selection.accuracy(probabilities, y)
        return {
            "members": [float(score) for score in scores],
            "ensemble": float(selection.accuracy(together[None], y)[0]),
            "n_samples": len(x),
            "how": "Accuracy of these files, run by LiteRT where they were exported, "
            "on the evaluation data given to export().",
        }

    def _early_exit(self, members, data, tolerance):
        if data is None:
            return None
        rule = self._rule()
        return selection.choose_early_exit(
            _predictions(members, data[0]),
            data[1],
            combination=rule["rule"],
            weights=rule.get("weights"),
            tolerance=tolerance,
        )

    def _check_prunable(self):
        if self.learners is None:
            raise ValueError(
                "Expected an ensemble that was made with a pool of learners. "
                "Received: learners=None. A loaded ensemble predicts; to choose anew, "
                "make one with `EnsemblePruner(pool)`."
            )
        if self.method != "cluster" and self.clusterer is not None:
            raise ValueError(
                "Expected method='cluster' with a clusterer. "
                f"Received: method={self.method!r}."
            )

    def _check_pruned(self):
        if not self.members_:
            self._check_chosen()
            raise ValueError(
                f"The ensemble {self.name!r} was chosen among bare probabilities: "
                "there are no models. `selection_` says which to load."
            )

    def _check_chosen(self):
        if not self.learners_:
            raise ValueError(
                f"The ensemble {self.name!r} has no members yet. Call "
                "`prune(x, y)` with held-out data first."
            )


def _predictions(members, x):
    """Return what exported files say, `(members, samples, classes)`."""
    files = [Member(m.model, from_logits=m.from_logits) for m in members]
    return np.stack([file.predict(np.asarray(x)) for file in files])


def _input_shape(member):
    if isinstance(member, keras.Model):
        return member.input_shape
    return (None, *member.input_shape) if isinstance(member, Member) else None
