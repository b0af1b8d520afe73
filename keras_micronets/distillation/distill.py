"""Batches with the outputs of a teacher."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_micronets.distillation.augmentation import random_layers
from keras_micronets.distillation.teacher import Teacher
from keras_micronets.losses import Distillation, pack

__all__ = ["distill"]


def distill(
    teacher: Any,
    x: Any,
    y: Any = None,
    *,
    sample_weight: Any = None,
    class_weight: dict[int, float] | None = None,
    augmentation: Callable | Sequence[Callable] | None = None,
    student: keras.Model | None = None,
    from_logits: bool | None = None,
    batch_size: int = 32,
    shuffle: bool = True,
    seed: int | None = None,
    verbose: int | str = "auto",
) -> Any:
    """Return data for `fit` that hold a teacher's outputs beside the labels.

    Compile the student with `keras_micronets.losses.Distillation` and fit it on the
    result, with any callbacks: a sparse int8 student is trained in one `fit`. Each
    batch holds the teacher's outputs for its own, augmented, inputs. For arrays without
    augmentation they are computed once, here; otherwise when the batch is made.

    Metrics see the plain labels, and `weighted_metrics` the sample weights.
    `validation_data` stay as they are.

    Args:
        teacher: A `keras.Model`, such as an `EnsemblePruner`; a `LearnerPool`, for the
            mean of all its learners; the path of a `.keras` or `.tflite` file or of a
            bundle; an `EnsembleRunner`; a scikit-learn classifier; a function from
            inputs to outputs; or a list of these, for their mean. Means are taken of
            probabilities.
        x: Inputs, an array or a structure of arrays; or batches of `(x, y)` or
            `(x, y, sample_weight)`: a `keras.utils.PyDataset` or a `tf.data.Dataset`.
            A `PyDataset` keeps its number of workers.
        y: Labels, as the student's loss takes them. `None` if `x` is a data set.
            Defaults to `None`.
        sample_weight: Array of shape `(samples,)`, for labels and teacher alike, not
            with a data set. Defaults to `None`.
        class_weight: Dictionary from class to the factor of the sample weights. `fit`
            does not take it, since these data have weights. Defaults to `None`.
        augmentation: A layer, or a function from a batch of inputs to another, or a
            list of them; layers are called with `training=True`. Student and teacher
            see the result. For layers within the student see
            `keras_micronets.split_augmentation`. Defaults to `None`.
        student: The compiled model that will be fitted. With it, mistakes are reported
            when `fit` begins. Defaults to `None`.
        from_logits: Boolean, whether the teacher returns logits. `False` also for the
            values of a regression. `None` to infer it as `LearnerPool.add` does.
            Defaults to `None`.
        batch_size: Integer, for arrays. Defaults to `32`.
        shuffle: Boolean, whether arrays are shuffled before each epoch. Defaults to
            `True`.
        seed: Integer, for the shuffling. Defaults to `None`, another order each time.
        verbose: `"auto"` or 1 for a progress bar while the teacher predicts arrays, 0
            for silence. Defaults to `"auto"`.

    Returns:
        A `keras.utils.PyDataset`, or a `tf.data.Dataset` if `x` is one.

    Raises:
        TypeError: If the teacher or `x` is of another type.
        ValueError: If arrays differ in their number of samples, labels are missing, a
            data set uses several processes, or the teacher's outputs are neither
            logits nor probabilities as far as is known. When `fit` begins, if the
            `student` does not fit.

    Example:

    ```python
    student = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(2)])
    student.compile("adam", kmn.losses.Distillation(from_logits=True))
    pruning = kmn.callbacks.WeightPruning(kmn.schedules.PolynomialDecay(0.0, 0.8))
    quantisation = kmn.callbacks.QuantizationAwareTraining(start=0.5)
    student.build((None, 8, 8, 1))
    data = kmn.distill([model, model], x, y, student=student)
    student.fit(data, epochs=2, callbacks=[pruning, quantisation])
    ```

    References: Hinton, Vinyals and Dean 2015, "Distilling the knowledge in a neural
    network". Teacher and student see the same augmented input, as Beyer et al. 2022,
    "Knowledge distillation: a good teacher is patient and consistent", recommend.
    """
    if student is not None and teacher is student:
        raise ValueError(
            "Expected another model as the teacher than the student: its outputs would "
            f"change while it trains. Received: {student.name!r} as both."
        )
    _check_student(student)
    add = _AddTeacher(Teacher(teacher, from_logits), augmentation, class_weight)
    if _is_tf_dataset(x) or isinstance(x, keras.utils.PyDataset):
        if y is not None or sample_weight is not None:
            raise ValueError(
                "Expected y=None and sample_weight=None with a data set, whose batches "
                "hold labels and weights. Received: both."
            )
        return _map(x, add) if _is_tf_dataset(x) else _Distilled(x, add, student)
    columns = _as_arrays(x, y, sample_weight)
    if augmentation is None:
        columns = _predict(add, columns, batch_size, verbose)
        add = _as_is
    return _Distilled(_Arrays(columns, batch_size, shuffle, seed), add, student)


class _AddTeacher:
    """Augment a batch, and add the teacher's outputs to its weights."""

    def __init__(self, teacher, augmentation, class_weight):
        self.teacher = teacher
        self.class_weight = class_weight or {}
        if not isinstance(augmentation, list | tuple):
            augmentation = [] if augmentation is None else [augmentation]
        self.augmentation = augmentation
        self._lock = threading.Lock()  # random layers count their calls

    def __call__(self, x, y, sample_weight=None):
        with self._lock:
            for one in self.augmentation:
                is_layer = isinstance(one, keras.layers.Layer)
                x = one(x, training=True) if is_layer else one(x)
        x, y = keras.tree.map_structure(_as_numpy, (x, y))
        if sample_weight is None:
            sample_weight = np.ones(len(y))
        weights = np.array(_as_numpy(sample_weight), "float32").reshape(len(y))
        for label, factor in self.class_weight.items():
            weights[_classes(y) == label] *= factor
        return x, y, pack(weights, self.teacher(x))


def _classes(y):
    return y.argmax(-1) if y.ndim == 2 and y.shape[-1] > 1 else y.reshape(len(y))


def _as_numpy(values):
    if keras.ops.is_tensor(values):
        return keras.ops.convert_to_numpy(values)
    return np.asarray(values)


class _Distilled(keras.utils.PyDataset):
    """Batches of another data set, with the teacher's outputs."""

    def __init__(self, data, add, student):
        if data.use_multiprocessing:
            raise ValueError(
                "Expected a data set that works with threads, since the teacher lives "
                "in this process. Received: use_multiprocessing=True."
            )
        super().__init__(data.workers, max_queue_size=data.max_queue_size)
        self._data, self._add, self._student = data, add, student

    def __len__(self):
        return len(self._data)

    @property
    def num_batches(self):
        _check_student(self._student)  # `fit` asks for it before anything else
        return self._data.num_batches

    def __getitem__(self, index):
        return self._add(*_checked(self._data[index]))

    def on_epoch_begin(self):
        self._data.on_epoch_begin()

    def on_epoch_end(self):
        self._data.on_epoch_end()


def _as_is(*batch):
    return batch


def _checked(batch):
    if not isinstance(batch, list | tuple) or len(batch) not in (2, 3):
        raise ValueError(
            "Expected batches of `(x, y)` or `(x, y, sample_weight)`. Received: "
            f"{type(batch).__name__}. Distillation needs labels; without any, take the "
            "teacher's classes and `weight=1.0` in the loss."
        )
    return batch


class _Arrays(keras.utils.PyDataset):
    """Batches of rows of arrays, shuffled before each epoch."""

    def __init__(self, columns, batch_size, shuffle, seed):
        super().__init__()
        self.columns, self.batch_size, self.shuffle = columns, batch_size, shuffle
        self._n_samples = len(columns[1])
        self._rng = np.random.default_rng(seed)
        self.on_epoch_end()

    def __len__(self):
        return -(-self._n_samples // self.batch_size)

    def __getitem__(self, index):
        rows = self._order[index * self.batch_size :][: self.batch_size]
        return keras.tree.map_structure(lambda array: array[rows], self.columns)

    def on_epoch_end(self):
        draw = self._rng.permutation if self.shuffle else np.arange
        self._order = draw(self._n_samples)


def _as_arrays(x, y, sample_weight):
    if y is None:
        raise ValueError(
            "Expected labels, as `y` or in the batches of a data set; without any, "
            "take the teacher's classes and `weight=1.0` in the loss. Received: y=None "
            f"and x of type {type(x).__name__}."
        )
    y = np.asarray(y)
    weights = np.ones(len(y)) if sample_weight is None else np.asarray(sample_weight)
    columns = keras.tree.map_structure(np.asarray, (x, y, weights))
    lengths = [len(array) for array in keras.tree.flatten(columns)]
    if len({*lengths}) > 1:
        raise ValueError(
            "Expected as many inputs as labels and weights. Received: arrays of "
            f"{', '.join(map(str, lengths))} samples."
        )
    return columns


def _predict(add, columns, batch_size, verbose):
    """Return arrays of inputs, labels, and weights with the teacher's outputs."""
    data = _Arrays(columns, max(batch_size, 128), False, None)
    bar = keras.utils.Progbar(len(data), verbose=1 if verbose == "auto" else verbose)
    parts = []
    for index in range(len(data)):
        parts.append(add(*data[index])[2])
        bar.add(1)
    third = keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *parts)
    return (*columns[:2], third)


def _is_tf_dataset(x):
    return hasattr(x, "element_spec") and hasattr(x, "map")


def _map(dataset, add):
    """Return a `tf.data.Dataset` that calls `add` for each batch."""
    import tensorflow as tf

    spec, tree = dataset.element_spec, keras.tree

    def arrays(*flat):
        batch = tree.pack_sequence_as(spec, list(flat))
        return tree.flatten(add(*_checked(batch)))

    first = next(iter(dataset.take(1).as_numpy_iterator()))
    example = add(*_checked(first))
    types = [np.asarray(array).dtype for array in tree.flatten(example)]

    def load(*batch):
        tensors = tf.numpy_function(arrays, tree.flatten(batch), types)
        for tensor, array in zip(tensors, tree.flatten(example), strict=True):
            tensor.set_shape((None, *array.shape[1:]))
        return tree.pack_sequence_as(example, tensors)

    return dataset.map(load)


def _check_student(student):
    """Raise a `ValueError` if a compiled student cannot learn from a teacher."""
    if not getattr(student, "compiled", False):
        return
    if not isinstance(student.loss, Distillation):
        raise ValueError(
            "Expected a student that is compiled with `keras_micronets.losses."
            f"Distillation`. Received: {student.name!r} with the loss "
            f"{student.loss!r}, which would not read the teacher's outputs."
        )
    inner = [layer.name for layer in random_layers(student)]
    if inner:
        raise ValueError(
            "Expected a student without random layers: the teacher would see other "
            f"inputs. Received: {student.name!r} with {', '.join(inner)}. Call "
            "`keras_micronets.split_augmentation(student)`."
        )
    _check_activation(student)


def _check_activation(student):
    activation: Any = getattr(student.layers[-1], "activation", None)
    normalised = (keras.activations.softmax, keras.activations.sigmoid)
    from_logits = student.loss.from_logits
    others = normalised if from_logits else (keras.activations.linear,)
    if from_logits is not None and activation in others:
        raise ValueError(
            "Expected `from_logits` of the loss to say whether the student returns "
            f"logits. Received: from_logits={from_logits} and {student.name!r}, which "
            f"ends in {activation.__name__}."
        )
