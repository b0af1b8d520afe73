"""Keep learners in a folder, with their files, metadata and predictions."""

import os
import shutil
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_micronets import layers
from keras_micronets.edge import Member
from keras_micronets.export import export_tflite
from keras_micronets.export.flatbuffer import gzip_size
from keras_micronets.export.representative_data import reusable
from keras_micronets.learners.contents import Contents, natural_order
from keras_micronets.learners.index import Index
from keras_micronets.learners.inputs import as_inputs, chunks, is_stream
from keras_micronets.learners.learner import Learner
from keras_micronets.learners.outputs import (
    architecture_hash,
    check_output_shape,
    describe,
    estimate_int8_gzip_size,
    infer_from_logits,
    infer_task,
    output_shape,
    single_output,
)
from keras_micronets.learners.predictions import (
    Predictor,
    check_same_outputs,
    predict_all,
    progress_bar,
)
from keras_micronets.learners.runs import Runs, last_number, next_number
from keras_micronets.learners.storage import (
    INDEX,
    discard_empty,
    open_folder,
    partial_directory,
    store,
)

__all__ = ["LearnerPool"]


class LearnerPool:
    """Keep trained models of one problem, the learners, in a folder.

    A learner is added as a whole or not at all, even if the process is killed, and
    several processes may add to one pool; `refresh` reads the learners of the others.

    A damaged learner is left out with a warning: it counts for nothing, and a learner
    that is added under its name replaces it. When a pool is opened, files are compared
    by their size and time; their hashes are checked when they are used. An index, which
    is made again if it is missing, holds the metadata of all learners: ten thousand
    are opened in a second or two.

    A pool in a folder that cannot be written can be read, and predicts without caching.

    Args:
        path: Path of the folder; `~` is the home folder. It is made if it does not
            exist.

    Attributes:
        path: Path of the folder.
        learners: The valid learners, ordered by name, numbers in names by value.
        damaged: Names of the learners that were left out.

    Raises:
        ValueError: If the path exists and is not a pool.

    Example:

    ```python
    pool = keras_micronets.LearnerPool("pool")
    pool.add(model, epoch=10, metrics={"val_accuracy": 0.81})
    probabilities = pool.predict(x_val)  # (learners, samples, classes)
    ```
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(os.path.expanduser(path))
        self._folder = open_folder(self.path)
        self._predictor = Predictor()
        self._contents = Contents(self._folder, Index(self.path / INDEX))
        self.refresh()

    @property
    def learners(self) -> list[Learner]:
        return self._contents.learners

    @property
    def damaged(self) -> list[str]:
        return sorted(self._contents.damaged, key=natural_order)

    def refresh(self) -> None:
        """Read the folder again, for learners that other processes added."""
        before = self._contents.damaged
        self._contents.refresh()
        for name, error in self._contents.damaged.items():
            if name not in before:
                warnings.warn(
                    f"Learner {name!r} of pool {self.path} is left out: {error}. Add "
                    "it again, or remove its folder to silence this warning.",
                    stacklevel=3,
                )

    def __len__(self) -> int:
        return len(self.learners)

    def __iter__(self) -> Iterator[Learner]:
        return iter(self.learners)

    def __getitem__(self, key: int | str) -> Learner:
        if not isinstance(key, str):
            return self.learners[key]
        learner = self._contents.find(key)
        if learner is None:
            raise KeyError(key)
        return learner

    def __contains__(self, name: str) -> bool:
        return self._contents.find(name) is not None

    def __repr__(self) -> str:
        return f"LearnerPool({str(self.path)!r}): {len(self)} learners"

    def next_run(self) -> str:
        """Return the first free name of a run, without reserving it."""
        self.refresh()
        return f"run-{next_number(self):03d}"

    def last_run(self) -> str:
        """Return the name of the last numbered run."""
        self.refresh()
        names = [*Runs(self.path).names(), *(x.run or "" for x in self)]
        return f"run-{max(last_number(names), 0):03d}"

    def add(
        self,
        model: keras.Model,
        *,
        name: str | None = None,
        run: str | None = None,
        epoch: int | None = None,
        seed: int | None = None,
        metrics: dict | None = None,
        from_logits: bool | None = None,
        task: str | None = None,
        output: str | int | None = None,
        origin: str = "",
    ) -> Learner:
        """Add a copy of a Keras model, masks and quantisers included.

        Args:
            model: A built model: sequential or functional, or subclassed with a
                `get_config`.
            name: Name of the learner, valid as a folder's name and not taken; a
                damaged learner of that name is replaced. `None` for the next number.
                Defaults to `None`.
            run: Name of the training run. Defaults to `None`.
            epoch: Integer, epochs trained. Defaults to `None`.
            seed: Integer, seed of the run. Defaults to `None`.
            metrics: Dictionary from name to number or array. Defaults to `None`.
            from_logits: Boolean, whether the model's output is logits. `None` to infer
                it from the compiled loss or the last activation; if neither tells, the
                outputs must be probabilities. Defaults to `None`.
            task: What the model predicts, one of `edge.TASKS`. `None` to infer it from
                the compiled loss, the last activation and the shapes. Defaults to
                `None`.
            output: Name or index of the output to use, for a functional model with
                several; the learner has this one only. Defaults to `None`.
            origin: How it was made, in words. Defaults to `""`.

        Returns:
            The `Learner`.

        Raises:
            ValueError: If the name is taken or invalid, or the model is not built or
                its output does not suit the task.
        """
        if isinstance(model, layers.SideBySide):
            raise ValueError(
                "Expected one model. Received: a `SideBySide` model of "
                f"{len(model.members)} members. Add each of its `members`, or use the "
                "`LearnerCheckpoint` callback."
            )
        if not model.built:
            raise ValueError(
                f"Expected a built model. Received: {model.name!r}, which is not "
                "built. Call it on a batch, or give it a `keras.Input`."
            )
        model = single_output(model, output)
        copy = layers.clone(model)
        if not layers.keeps_state(copy):
            raise ValueError(
                "Expected a sequential or functional model: Keras rebuilds a "
                "subclassed one without its quantisers. Received: "
                f"{model.name!r} with active quantisers."
            )
        if from_logits is None:
            from_logits = infer_from_logits(model)
        metadata = {
            "from_logits": from_logits,
            **_describe_outputs(output_shape(copy), model.name, task, model),
            "architecture": architecture_hash(copy),
            "gzip_bytes": estimate_int8_gzip_size(copy),
            "sparsity": layers.sparsity(copy),
            "quantized": layers.quantized_share(copy) > 0,
            "run": run,
            "epoch": epoch,
            "seed": seed,
            "metrics": metrics or {},
            "origin": origin or describe(copy),
        }
        with partial_directory(self._folder) as partial:
            copy.save(partial / "model.keras")
            return self._store(partial, "model.keras", name, metadata)

    def add_tflite(
        self,
        path: str | os.PathLike,
        *,
        name: str | None = None,
        from_logits: bool = False,
        task: str = "multiclass",
        **metadata: Any,
    ) -> Learner:
        """Add a `.tflite` model.

        Args:
            path: Path of the file, which is copied; `~` is the home folder.
            name: Name of the learner; `None` for the next number. Defaults to `None`.
            from_logits: Boolean, whether its output is logits. Defaults to `False`.
            task: What it predicts, one of `edge.TASKS`. Defaults to `"multiclass"`.
            **metadata: `sparsity`, `run`, `epoch`, `seed`, `metrics` and `origin`, see
                `Learner`.

        Returns:
            The `Learner`.

        Raises:
            ValueError: If the name is taken or the file does not run.
        """
        path = os.path.expanduser(path)
        member = Member(path)
        values = {
            "from_logits": from_logits,
            **_describe_outputs((None, *member.output_shape), member.name, task),
            "architecture": "tflite",
            "gzip_bytes": gzip_size(Path(path).read_bytes()),
            "quantized": member.output_dtype == "int8",
            **metadata,
        }
        with partial_directory(self._folder) as partial:
            shutil.copy(path, partial / "model.tflite")
            return self._store(partial, "model.tflite", name, values)

    def remove(self, name: str) -> None:
        """Remove a learner and its files.

        Args:
            name: Name of the learner.

        Raises:
            KeyError: If the pool has no learner of this name.
        """
        learner = self[name]
        with partial_directory(self._folder) as partial:
            learner.directory.rename(partial / name)
        self._contents.remove(name)

    @contextmanager
    def trial(self) -> Iterator["LearnerPool"]:
        """Yield an empty pool in this folder, to try whether a model can be added."""
        with partial_directory(self.path) as folder:
            yield LearnerPool(folder / "trial")

    def _store(self, partial, file, name, metadata):
        name = store(self._folder, partial, file, name, len(self), **metadata)
        return self._contents.add(self._folder / name)

    def predict(
        self,
        x: Any,
        *,
        batch_size: int = 256,
        verbose: int | str = "auto",
        mapped: bool = False,
    ) -> np.ndarray:
        """Return the predictions of all learners on one data set.

        They are class probabilities, for one sigmoid or logit unit the probability of
        the event, or numbers. They are cached in the pool's folder by the hashes of
        data and learners, unless it cannot be written.

        Args:
            x: Array of shape `(samples, ...)`; for models of several inputs a
                dictionary or a list of them, as for `keras.Model.predict`; or a stream
                of batches, as for `EnsemblePruner.prune`, which is read once.
            batch_size: Integer, samples per batch. Defaults to `256`.
            verbose: `"auto"` or 1 for a progress bar, 0 for silence. Defaults to
                `"auto"`.
            mapped: Whether the result is memory-mapped from disk, probabilities in half
                precision, for pools whose predictions do not fit in memory. Defaults to
                `False`.

        Returns:
            Float32 array of shape `(learners, samples, *outputs)`; float16 for
            probabilities if `mapped`.

        Raises:
            ValueError: If the pool is empty, its learners differ in their task or the
                shape of their outputs, or the file of a learner has changed since it
                was added.
        """
        self._check_not_empty()
        check_same_outputs(self)
        if is_stream(x):
            options: dict[str, Any] = {"batch_size": batch_size, "verbose": 0}
            parts = [self.predict(inputs, **options) for inputs, *_ in chunks(x)]
            return np.concatenate(parts, axis=1)
        return predict_all(
            self.learners,
            as_inputs(x),
            self.path / "predictions",
            self._predictor,
            batch_size=batch_size,
            verbose=verbose,
            mapped=mapped,
        )

    def quantize(
        self,
        representative_data: Any = None,
        *,
        path: str | os.PathLike | None = None,
        verbose: int | str = "auto",
    ) -> "LearnerPool":
        """Return a pool of the same learners as int8 `.tflite` files.

        Learners trained with quantisers keep the ranges they learned; the others are
        quantised after training. Learners that the new pool has already are skipped.

        Args:
            representative_data: Some hundred inputs, as for `export_tflite`. `None`
                if all learners have learned ranges. Defaults to `None`.
            path: Folder of the new pool, as for `LearnerPool`. `None` for this pool's
                path followed by `-int8`. Defaults to `None`.
            verbose: `"auto"` or 1 for a progress bar, 0 for silence. Defaults to
                `"auto"`.

        Returns:
            The `LearnerPool` of int8 learners, with the same names.

        Raises:
            ValueError: If the pool is empty or has learners that are not Keras models,
                if the new pool's learners were made from others, or as
                `export_tflite` does.
        """
        self._check_not_empty()
        _check_keras(self)
        path = Path(os.path.expanduser(path or f"{self.path}-int8"))
        is_new, pool = not path.exists(), LearnerPool(path)
        _check_source(pool, self)
        try:
            data = reusable(representative_data)
            pool._quantize_all(self.learners, data, verbose)
        except Exception:
            if is_new:
                discard_empty(path)
            raise
        return pool

    def _quantize_all(self, learners, data, verbose):
        bar = progress_bar(len(learners), verbose)
        for learner in learners:
            if learner.name not in self:
                self._add_quantized(learner, data)
            bar.add(1)

    def _add_quantized(self, learner, data):
        with partial_directory(self._folder) as partial:
            metadata = _quantize(learner, partial / "model.tflite", data)
            self._store(partial, "model.tflite", learner.name, metadata)

    def _check_not_empty(self):
        if not self.learners:
            raise ValueError(
                f"Expected a pool with learners. Received: {self.path}, which is "
                "empty. Fill it with `add` or the `LearnerCheckpoint` callback."
            )


def _describe_outputs(shape: Any, name: str, task: str | None, model: Any = None):
    """Return the metadata of a learner that describe its predictions."""
    if task is None:
        task = infer_task(model)
    outputs = check_output_shape(shape, name, task)
    return {"task": task, "n_classes": outputs[-1], "output_shape": outputs}


def _quantize(learner: Learner, path: Path, representative_data: Any) -> dict:
    """Write the int8 `.tflite` file of a Keras learner, and return its metadata."""
    report = export_tflite(
        learner.load(), path, representative_data=representative_data
    )
    of_the_file = ("directory", "name", "file", "sha256", "n_bytes", "created")
    return learner.to_dict(exclude=of_the_file) | {
        "architecture": "tflite",
        "gzip_bytes": report.gzip_bytes,
        "quantized": True,
        "source": learner.sha256,
        "origin": f"{learner.origin}; int8, ranges {report.calibration}",
    }


def _check_keras(learners: Iterable[Learner]) -> None:
    """Raise a `ValueError` unless all learners are Keras models."""
    others = [learner.name for learner in learners if not learner.is_keras]
    if others:
        raise ValueError(
            "Expected learners that are Keras models. Received: "
            f"{', '.join(others[:5])}, which are `.tflite` files already."
        )


def _check_source(quantized: Iterable[Learner], learners: Iterable[Learner]) -> None:
    """Raise a `ValueError` if quantised learners were made from others of their names.

    That happens when the learners were trained again under the same names.
    """
    sources = {learner.name: learner.source for learner in quantized}
    others = [x.name for x in learners if sources.get(x.name, x.sha256) != x.sha256]
    if others:
        raise ValueError(
            "Expected a free path, or the pool of these learners as int8. Received: "
            f"one whose {', '.join(others[:5])} came from other learners. Choose "
            "another `path`, or remove that folder."
        )
