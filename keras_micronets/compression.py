"""Turn a training set into one small int8 network, taught by others."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_micronets.callbacks import LearnerCheckpoint, QuantizationAwareTraining
from keras_micronets.distillation import distill
from keras_micronets.edge import Member
from keras_micronets.ensemble import EnsemblePruner
from keras_micronets.export import ExportReport, export_tflite
from keras_micronets.export.tflite import check_path
from keras_micronets.joint_training import side_by_side
from keras_micronets.learners import LearnerPool
from keras_micronets.learners.outputs import infer_from_logits
from keras_micronets.losses import Distillation
from keras_micronets.selection import accuracy, negative_log_likelihood

__all__ = ["CompressedNetwork", "compress"]


@dataclass(frozen=True, eq=False)
class CompressedNetwork:
    """Result of `compress`.

    Attributes:
        student: The `keras.Model` that was exported, with its quantisers.
        teacher: The `EnsemblePruner` that taught it.
        pool: The `LearnerPool` of all teachers.
        path: Path of the int8 file.
        export_report: The `ExportReport` of the file: its size and operations.
    """

    student: keras.Model
    teacher: EnsemblePruner
    pool: LearnerPool
    path: Path
    export_report: ExportReport

    def evaluate(self, x: Any, y: Any) -> dict[str, tuple[float, float]]:
        """Return accuracy and negative log-likelihood of each stage on test data.

        Args:
            x: Array of inputs.
            y: Labels, sparse or one-hot.

        Returns:
            Dictionary from `"mean of single teachers"`, `"ensemble"` and `"int8 file"`
            to `(accuracy, negative log-likelihood)`.
        """
        member = Member(self.path, from_logits=bool(self.student.loss.from_logits))
        singles = self.pool.predict(x, verbose=0)
        outputs = {
            "mean of single teachers": singles,
            "ensemble": self.teacher.predict(x, verbose=0),
            "int8 file": member.predict(x),
        }
        return {
            name: (
                float(np.mean(accuracy(one, y))),
                float(np.mean(negative_log_likelihood(one, y))),
            )
            for name, one in outputs.items()
        }


def compress(
    build: Callable[[], keras.Model],
    x: Any,
    y: Any = None,
    *,
    validation_data: tuple[Any, Any],
    path: str | os.PathLike,
    student: Callable[[], keras.Model] | None = None,
    n_teachers: int = 1,
    epochs: int = 50,
    student_epochs: int | None = None,
    optimizer: Callable[[int], keras.Optimizer] | None = None,
    weight: float = 0.7,
    temperature: float = 2.0,
    quantize: float = 0.5,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    batch_size: int = 32,
    pool: LearnerPool | str | os.PathLike | None = None,
    seed: int = 0,
    verbose: int | str = "auto",
) -> CompressedNetwork:
    """Train teachers, distil them into one network and write that as an int8 file.

    The classifier on the device costs what one network costs. The steps are public, to
    be copied and changed:

    1. `side_by_side` trains independent teachers in one `fit`, and
       `LearnerCheckpoint` adds them to a pool.
    2. `EnsemblePruner` chooses among them on the validation data.
    3. The student is trained on `distill` with `losses.Distillation`, and from
       `quantize` on as the integer network, by `QuantizationAwareTraining`.
    4. `export_tflite` writes the file.

    Training costs `n_teachers` times the teacher, once the student, and the teachers'
    predictions in each of the student's epochs. If the call is
    repeated after an interruption, teachers that are in the pool are not trained again.

    Args:
        build: Function without arguments that returns a teacher: a new, built
            classifier. Logits train best. It need not be compiled.
        x: Array of inputs; or a `keras.utils.PyDataset` of `(x, y)`, which may augment
            its batches.
        y: Labels, sparse or one-hot. `None` if `x` is a data set. Defaults to `None`.
        validation_data: Tuple of arrays `(x, y)`, to choose teachers and to monitor.
        path: Path of the file; must end in `.tflite`.
        student: Function that returns the network for the device. `None` for `build`.
            Defaults to `None`.
        n_teachers: Integer, the number of teachers. On four tasks one teacher and a
            longer student were at least as good as three teachers for the same
            training cost (`docs/benchmarks.md`). Defaults to `1`.
        epochs: Integer, epochs of the teachers' fit. Defaults to `50`.
        student_epochs: Integer, epochs of the student's fit. `None` for three times
            `epochs`. Defaults to `None`.
        optimizer: Function from the number of steps of a fit to an optimizer. `None`
            for AdamW with weight decay 0.1 and a cosine from 0.002. Defaults to
            `None`.
        weight, temperature: As for `losses.Distillation`.
        quantize: Float in [0, 1), the progress of the student's training from which it
            is quantised. Defaults to `0.5`.
        callbacks: Callbacks for the student, such as `WeightPruning`. Defaults to `()`.
        batch_size: Integer, for arrays. Defaults to `32`.
        pool: A `LearnerPool` for the teachers, or the path of one. `None` for the path
            of the file followed by `-teachers`. Defaults to `None`.
        seed: Integer. Sets Keras's global seeds. Defaults to `0`.
        verbose: As for `fit`. Defaults to `"auto"`.

    Returns:
        A `CompressedNetwork`.

    Raises:
        ValueError: If the path does not end in `.tflite`, or as the steps do.

    Example:

    ```python
    def build():
        return keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                keras.layers.Conv2D(8, 3, activation="relu"),
                keras.layers.Flatten(),
                keras.layers.Dense(2),
            ]
        )

    result = keras_micronets.compress(
        build, x, y, validation_data=(x_val, y_val), path="net.tflite", epochs=2
    )
    result.evaluate(x_test, y_test)
    ```
    """
    path = check_path(path)
    pool = (
        pool
        if isinstance(pool, LearnerPool)
        else LearnerPool(pool or f"{path.with_suffix('')}-teachers")
    )
    is_dataset = isinstance(x, keras.utils.PyDataset)
    n_batches = len(x) if is_dataset else math.ceil(len(x) / batch_size)
    student_epochs = student_epochs or 3 * epochs
    labels = x[0][1] if is_dataset else y
    options = {"validation_data": validation_data, "verbose": verbose}
    by_batch = {} if is_dataset else {"batch_size": batch_size}

    # 1. Independent teachers
    keras.utils.set_random_seed(seed)
    run = f"teachers-seed-{seed}"
    trained = [one for one in pool if (one.run, one.epoch) == (run, epochs)]
    if len(trained) < n_teachers:
        teachers = side_by_side(build, n_teachers, seed=seed)
        _compile(
            teachers,
            _crossentropy(teachers.members[0], labels),
            optimizer,
            epochs * n_batches,
        )
        checkpoint = LearnerCheckpoint(pool, every=epochs, run=run)
        teachers.fit(x, y, epochs=epochs, callbacks=[checkpoint], **by_batch, **options)

    # 2. The best of them, on data that they have not seen
    ensemble = EnsemblePruner(pool, n_teachers, random_state=seed)
    ensemble.prune(*validation_data, verbose=0)

    # 3. One network that learns from them
    keras.utils.set_random_seed(seed)
    network = (student or build)()
    hard = _crossentropy(network, labels)
    loss = Distillation(weight, temperature, loss=hard)
    _compile(network, loss, optimizer, student_epochs * n_batches)
    data = distill(
        ensemble,
        x,
        y,
        student=network,
        batch_size=batch_size,
        seed=seed,
        verbose=verbose,
    )
    quantisation = QuantizationAwareTraining(quantize)
    network.fit(
        data,
        epochs=student_epochs,
        callbacks=[*callbacks, quantisation],
        **options,
    )

    # 4. The file for the device
    report = export_tflite(network, path)
    return CompressedNetwork(network, ensemble, pool, path, report)


def _compile(model, loss, optimizer, n_steps):
    model.compile((optimizer or _adamw)(n_steps), loss, metrics=["accuracy"])


def _adamw(n_steps):
    rate = keras.optimizers.schedules.CosineDecay(2e-3, n_steps)
    return keras.optimizers.AdamW(rate, weight_decay=0.1)


def _crossentropy(model, y):
    """Return the loss for the labels; without a softmax, the model returns logits."""
    from_logits = infer_from_logits(model) is not False
    if np.ndim(y) == 2 and np.shape(y)[-1] > 1:
        return keras.losses.CategoricalCrossentropy(from_logits)
    return keras.losses.SparseCategoricalCrossentropy(from_logits)
