import os
import re
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np

from keras_micronets import layers
from keras_micronets.edge import Member
from keras_micronets.export.flatbuffer import gzip_size
from keras_micronets.export.representative_data import reusable
from keras_micronets.learners.learner import Learner
from keras_micronets.learners.outputs import (
    architecture_hash,
    count_classes,
    describe,
    estimate_int8_gzip_size,
    output_shape,
    settle_from_logits,
)
from keras_micronets.learners.predictions import (
    Predictor,
    check_same_classes,
    predict_all,
)
from keras_micronets.learners.quantize import (
    check_keras,
    check_made_from,
    quantize_learner,
)
from keras_micronets.learners.storage import (
    discard_empty,
    open_folder,
    partial_directory,
    read_learners,
    store,
)


class LearnerPool:
    """A folder of learners: models of one problem, trained and kept.

    A learner is added as a whole or not at all, so that a process may be killed at
    any moment; several may add to one pool. A learner whose file is damaged is
    named in a warning and in `damaged`, and left out.

    Args:
        path: The folder. It is made if it does not exist.

    Attributes:
        path: The folder.
        learners: The sound learners, in the order of their names.
        damaged: Names of the folders that were left out.

    Raises:
        ValueError: If the path exists and is something else.

    Example:

    ```python
    pool = keras_micronets.LearnerPool("pool")
    pool.add(model, epoch=10, metrics={"val_accuracy": 0.81})
    probabilities = pool.predict(x_val)  # (learners, samples, classes)
    ```
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self._folder = open_folder(self.path)
        self._predictor = Predictor()
        self.learners, self.damaged = [], []
        self.refresh()

    def refresh(self) -> None:
        """Read the folder again, for what other processes have added."""
        before = self.damaged
        self.learners, damaged = read_learners(self._folder, self.learners)
        self.damaged = list(damaged)
        for name in set(damaged) - set(before):
            warnings.warn(
                f"Learner {name!r} of pool {self.path} is left out: {damaged[name]}. "
                "Remove its folder to be rid of this message.",
                stacklevel=3,
            )

    def __len__(self):
        return len(self.learners)

    def __iter__(self) -> Iterator[Learner]:
        return iter(self.learners)

    def __getitem__(self, key: int | str) -> Learner:
        if isinstance(key, str):
            return {learner.name: learner for learner in self.learners}[key]
        return self.learners[key]

    def __contains__(self, name: str) -> bool:
        return (self._folder / name).exists()

    def __repr__(self):
        return f"LearnerPool({str(self.path)!r}): {len(self)} learners"

    def next_run(self) -> str:
        """Return the name of a run that no learner has yet."""
        return f"run-{self._last_number() + 1:03d}"

    def last_run(self) -> str:
        """Return the name of the last numbered run, for a `fit` that resumes."""
        return f"run-{max(self._last_number(), 0):03d}"

    def _last_number(self):
        self.refresh()
        found = [re.fullmatch(r"run-(\d+)", x.run or "") for x in self.learners]
        return max((int(match[1]) for match in found if match), default=-1)

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
        origin: str = "",
    ) -> Learner:
        """Add a Keras model as it is now, masks and quantisers included.

        Args:
            model: A built model that puts out one row of classes a sample:
                sequential or functional, or subclassed with a `get_config`.
            name: Name of the learner, letters that a folder's name may have. `None`
                for the next number. Defaults to `None`.
            run: Name of the training run. Defaults to `None`.
            epoch: Integer, epochs trained. Defaults to `None`.
            seed: Integer, seed of the run. Defaults to `None`.
            metrics: Dictionary from name to number. Defaults to `None`.
            from_logits: Boolean, whether the model puts out logits. `None` to take
                the compiled loss's word for it, or else that of the last layer's
                activation; if neither tells, its outputs must turn out to be
                probabilities. Defaults to `None`.
            origin: How it was made, in words. Defaults to `""`.

        Returns:
            The `Learner`.

        Raises:
            ValueError: If the name is taken or no folder can have it, or the model
                is not built or puts out anything but one row of classes.
        """
        if not model.built:
            raise ValueError(
                f"Expected a built model. Received: {model.name!r}, which is not "
                "built. Call it on a batch, or give it a `keras.Input`."
            )
        copy = layers.clone(model)
        if not layers.keeps_state(copy):
            raise ValueError(
                "Expected a sequential or functional model: Keras rebuilds a "
                "subclassed one without its quantisers. Received: "
                f"{model.name!r} with active quantisers."
            )
        if from_logits is None:
            from_logits = settle_from_logits(model)
        metadata = {
            "from_logits": from_logits,
            "n_classes": count_classes(output_shape(copy), model.name),
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
        **metadata,
    ) -> Learner:
        """Add a `.tflite` classifier.

        Args:
            path: The file; it is copied.
            name: Name of the learner; `None` for the next number. Defaults to
                `None`.
            from_logits: Boolean, whether it puts out logits. Defaults to `False`.
            **metadata: `sparsity`, `run`, `epoch`, `seed`, `metrics`, `origin`, as
                `Learner` has them.

        Returns:
            The `Learner`.

        Raises:
            ValueError: If the name is taken or the file does not run.
        """
        member = Member(path)
        values = {
            "from_logits": from_logits,
            "n_classes": count_classes((None, *member.output_shape), member.name),
            "architecture": "tflite",
            "gzip_bytes": gzip_size(Path(path).read_bytes()),
            "quantized": member.output_dtype == "int8",
            **metadata,
        }
        with partial_directory(self._folder) as partial:
            shutil.copy(path, partial / "model.tflite")
            return self._store(partial, "model.tflite", name, values)

    def _store(self, partial, file, name, metadata):
        name = store(self._folder, partial, file, name, len(self), **metadata)
        self.refresh()
        return self[name]

    def predict(
        self,
        x: np.ndarray,
        *,
        batch_size: int = 256,
        verbose: int | str = "auto",
        mapped: bool = False,
    ) -> np.ndarray:
        """Return the class probabilities of all learners on one data set.

        They are kept in the pool's folder, and computed again only if the data or
        the learner is another.

        Args:
            x: Array of shape `(samples, ...)`.
            batch_size: Integer, samples a batch. Defaults to `256`.
            verbose: `"auto"` or 1 for a progress bar, 0 for silence. Defaults to
                `"auto"`.
            mapped: Whether the array is to lie on disk, in half precision and
                memory-mapped: for pools whose predictions fill the memory. Defaults
                to `False`.

        Returns:
            Float32 array of shape `(learners, samples, classes)`; float16 if `mapped`.

        Raises:
            ValueError: If the pool is empty, or its learners differ in the number
                of classes.
        """
        self._check_not_empty()
        check_same_classes(self)
        return predict_all(
            self.learners,
            np.asarray(x),
            self.path / "predictions",
            self._predictor,
            batch_size=batch_size,
            verbose=1 if verbose == "auto" else verbose,
            mapped=mapped,
        )

    def quantize(
        self,
        representative_data=None,
        *,
        path: str | os.PathLike | None = None,
        verbose: int | str = "auto",
    ) -> "LearnerPool":
        """Return the pool of the same learners as int8 `.tflite` files.

        Learners that were trained with quantisers keep the ranges they learned; the
        others are quantised after training. Learners that the other pool has
        already are not made again.

        Args:
            representative_data: Some hundred inputs, as for `export_tflite`. `None`
                if all learners have learned ranges. Defaults to `None`.
            path: Folder of the new pool. `None` for this pool's path with `-int8`
                behind it. Defaults to `None`.
            verbose: `"auto"` or 1 for a progress bar, 0 for silence. Defaults to
                `"auto"`.

        Returns:
            The `LearnerPool` of int8 learners, with the same names.

        Raises:
            ValueError: If the pool is empty, or has learners that are not Keras
                models; if the other pool's were made from other learners; or as
                `export_tflite` does.
        """
        self._check_not_empty()
        check_keras(self)
        path = Path(path or f"{self.path}-int8")
        is_new, pool = not path.exists(), LearnerPool(path)
        check_made_from(pool, self)
        try:
            data = reusable(representative_data)
            pool._quantize_all(self.learners, data, verbose)
        except Exception:
            if is_new:
                discard_empty(path)
            raise
        return pool

    def _quantize_all(self, learners, data, verbose):
        verbose = 1 if verbose == "auto" else verbose
        bar = keras.utils.Progbar(len(learners), verbose=verbose, unit_name="learner")
        for learner in learners:
            if learner.name not in self:
                self._add_quantized(learner, data)
            bar.add(1)

    def _add_quantized(self, learner, data):
        with partial_directory(self._folder) as partial:
            metadata = quantize_learner(learner, partial / "model.tflite", data)
            self._store(partial, "model.tflite", learner.name, metadata)

    def _check_not_empty(self):
        if not self.learners:
            raise ValueError(
                f"Expected a pool with learners. Received: {self.path}, which is "
                "empty. Fill it with `add` or the `LearnerCheckpoint` callback."
            )
