"""Train the learners of Prune2Edge, which differ in batch size and loss."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_micronets import layers
from keras_micronets.callbacks import WeightPruning
from keras_micronets.callbacks.cycles.cycle import warn_if_untrained
from keras_micronets.edge.tasks import CLASS_TASKS, PER_LABEL
from keras_micronets.learners import LearnerPool
from keras_micronets.learners.inputs import as_inputs, count_samples, hash_arrays
from keras_micronets.learners.labels import encode
from keras_micronets.learners.members import check_members, name_in_run
from keras_micronets.learners.outputs import (
    infer_from_logits,
    infer_task,
    output_shape,
)
from keras_micronets.learners.runs import Runs, begin_repeatable_run
from keras_micronets.schedules import Constant
from keras_micronets.selection import as_labels

__all__ = ["Prune2EdgeSettings", "draw_prune2edge", "train_prune2edge"]

_ERRORS = ("mean_squared_error", "mean_absolute_error")
#: Losses to choose from, for each task: crossentropies where there are classes.
LOSSES = {
    "multiclass": ("categorical_crossentropy", *_ERRORS),
    **dict.fromkeys(PER_LABEL, ("binary_crossentropy", *_ERRORS)),
    **dict.fromkeys(("regression", "reconstruction"), _ERRORS),
}


@dataclass(frozen=True)
class Prune2EdgeSettings:
    """The hyper-parameters of one learner of Prune2Edge.

    Attributes:
        sparsity: Share of each kernel that is removed.
        frequency: Batches between the updates of the masks.
        batch_size: Samples in a batch.
        loss: Name of a Keras loss, between probabilities where there are classes.
    """

    sparsity: float
    frequency: int
    batch_size: int
    loss: str


def draw_prune2edge(
    index: int,
    seed: int = 0,
    *,
    sparsity: tuple[float, float] = (0.2, 0.55),
    frequencies: Sequence[int] = (50, 75, 100),
    batch_sizes: Sequence[int] = (16, 32, 64),
    losses: Sequence[str] = LOSSES["multiclass"],
) -> Prune2EdgeSettings:
    """Sample the hyper-parameters of one learner of Prune2Edge.

    Args:
        index: Integer, the number of the learner. The result depends on the arguments
            only.
        seed: Integer. Defaults to `0`.
        sparsity: Pair of floats, the range of a uniform distribution; the sparsity is
            rounded to two decimals.
        frequencies, batch_sizes, losses: Sequences to choose from.
    """
    rng = np.random.default_rng((seed, index))
    return Prune2EdgeSettings(
        sparsity=round(float(rng.uniform(*sparsity)), 2),
        frequency=int(rng.choice(frequencies)),
        batch_size=int(rng.choice(batch_sizes)),
        loss=str(rng.choice(losses)),
    )


def train_prune2edge(
    parent: keras.Model,
    pool: LearnerPool,
    x: Any,
    y: Any = None,
    *,
    n_learners: int = 20,
    epochs: int = 2,
    learning_rate: float = 1e-5,
    sequential: bool = False,
    from_logits: bool | None = None,
    task: str | None = None,
    run: str | None = None,
    seed: int = 0,
    verbose: int | str = "auto",
    **ranges: Any,
) -> None:
    """Add the learners of Prune2Edge to a pool, each trained by its own `fit`.

    Each learner is a copy of the parent, pruned by magnitude to a random sparsity and
    trained with a random batch size, loss and frequency. The parent does not change.
    A call with the same parent, data and arguments resumes its run, also in another
    process: learners that are already in the pool are not trained again, damaged ones
    are. `n_learners` may increase.

    The paper has classifiers; for other tasks the losses are the binary crossentropy
    and the two errors, or, for numbers, the errors.

    Args:
        parent: A built model of one output.
        pool: A `LearnerPool`.
        x: Array of inputs; for models of several inputs a dictionary or list of them.
        y: Targets. Integer labels `(samples,)`, or one-hot rows; zeros and ones for
            `"binary"` (also -1 and 1) and `(samples, labels)` for `"multilabel"`;
            numbers of the shape of the outputs for a regression. Defaults to `None`,
            the inputs, for a reconstruction only.
        n_learners, sequential: As for `LearnerCycles.prune2edge`.
        epochs: Integer, epochs of each fit. Defaults to `2`.
        learning_rate: Positive float, for Adam. Defaults to `1e-5`.
        from_logits: Boolean, whether the parent returns logits. `None` to infer it as
            `LearnerPool.add` does; numbers are no logits. Defaults to `None`.
        task: What the parent predicts, one of `edge.TASKS`. `None` to infer it as
            `LearnerPool.add` does. Defaults to `None`.
        run: String, the name of the run within the pool. `None` for the run that
            resumes, or else `"prune2edge"`, with a number if that is taken. Defaults to
            `None`.
        seed: Integer, for the hyper-parameters and the order of the batches; sets
            Keras's global seeds. Defaults to `0`.
        verbose: `"auto"` or 1 for a progress bar, 0 for silence. Defaults to
            `"auto"`.
        **ranges: The ranges of `draw_prune2edge`, to change them. `losses` are those
            of the task by default.

    Raises:
        ValueError: If `from_logits` cannot be inferred, the parent cannot be saved and
            loaded, the targets do not fit its outputs or the task, or the pool has a
            run of this name with another parent, other data or other arguments.

    Warns:
        UserWarning: If the parent has not been trained.

    Example:

    ```python
    model.fit(x_train, y_train, epochs=2)
    pool = keras_micronets.LearnerPool("pool")
    keras_micronets.train_prune2edge(model, pool, x_train, y_train, n_learners=2)
    ```

    Reference: see `LearnerCycles.prune2edge`.
    """
    task = task or infer_task(parent)
    if task not in CLASS_TASKS:
        from_logits = False
    elif from_logits is None:
        from_logits = infer_from_logits(parent)
    if from_logits is None:
        raise ValueError(
            "Expected a parent that is compiled with a loss that has `from_logits`, or "
            f"that ends in a softmax or sigmoid. Received: {parent.name!r}, which has "
            "neither. Pass `from_logits=`."
        )
    warn_if_untrained(parent)
    check_members(pool, parent, task=task)
    x = as_inputs(x)
    targets = _as_targets(x, y, task, output_shape(parent)[1:])
    options = (epochs, learning_rate, sequential, from_logits, seed)
    if task != "multiclass":
        options += (task,)
    arrays = hash_arrays([x, targets, *parent.get_weights()])
    described = repr((options, sorted(ranges.items()), arrays))
    content = hashlib.sha256(described.encode()).hexdigest()
    run = begin_repeatable_run(pool, run, default="prune2edge", content=content)
    bar = keras.utils.Progbar(
        n_learners, verbose=1 if verbose == "auto" else verbose, unit_name="learner"
    )
    before, ranges = parent, {"losses": LOSSES[task], **ranges}
    for index in range(n_learners):
        name = name_in_run(pool, f"{run}-{index:04d}", run)
        if name in pool:
            before = pool[name].load() if sequential else parent
        else:
            settings = draw_prune2edge(index, seed, **ranges)
            model = layers.clone(before if sequential else parent)
            keras.utils.set_random_seed(seed * 100_003 + index)
            loss = keras.losses.get(settings.loss)
            if from_logits:
                to_probabilities = ops.sigmoid if task in PER_LABEL else ops.softmax
                loss = _OnProbabilities(loss, to_probabilities)
            _tune(model, settings, x, targets, loss, epochs, learning_rate)
            pool.add(
                model,
                name=name,
                run=run,
                epoch=epochs,
                seed=seed,
                metrics=asdict(settings),
                from_logits=from_logits,
                task=task,
                origin="Prune2Edge",
            )
            before = model
        bar.add(1)
    Runs(pool.path).finish(run)


def _tune(model, settings, x, targets, loss, epochs, learning_rate):
    layers.prepare(model)
    for kernel in layers.kernels(model):  # of the previous learner
        kernel.set_mask(np.ones(kernel.mask.shape, bool))
    model.compile(keras.optimizers.Adam(learning_rate), loss)
    pruning = WeightPruning(Constant(settings.sparsity), frequency=settings.frequency)
    model.fit(
        x,
        targets,
        batch_size=settings.batch_size,
        epochs=epochs,
        verbose=0,
        callbacks=[pruning],
    )


class _OnProbabilities(keras.losses.Loss):
    """Apply a loss between probabilities to a model that returns logits."""

    def __init__(self, loss, to_probabilities):
        super().__init__()
        self.loss, self.to_probabilities = loss, to_probabilities

    def call(self, y_true, y_pred):
        return self.loss(y_true, self.to_probabilities(y_pred))


def _as_targets(x, y, task, shape):
    """Return targets of the shape of the outputs, or say before training what fits."""
    if y is None and task == "reconstruction":
        y = x
    y = encode(y, None, task)
    if task == "multiclass" and y.shape[1:] != shape:
        y = keras.utils.to_categorical(as_labels(y, shape[-1], len(y)), shape[-1])
    if shape == (1,) and y.ndim == 1:
        y = y[:, None]
    expected = (count_samples(x), *shape)
    if y.shape != expected:
        raise ValueError(
            f"Expected targets of shape {expected} for task={task!r}. Received: "
            f"shape {y.shape}. Pass the right `task`, or other targets."
        )
    if task in PER_LABEL and not ((y >= 0) & (y <= 1)).all():
        raise ValueError(
            f"Expected zeros and ones as targets of task={task!r}. Received: values "
            f"from {y.min()} to {y.max()}."
        )
    return y
