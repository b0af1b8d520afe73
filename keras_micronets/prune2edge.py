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
from keras_micronets.learners import LearnerPool
from keras_micronets.learners.inputs import hash_arrays
from keras_micronets.learners.members import check_members, name_in_run
from keras_micronets.learners.outputs import infer_from_logits
from keras_micronets.learners.runs import Runs, begin_repeatable_run
from keras_micronets.schedules import Constant

__all__ = ["Prune2EdgeSettings", "draw_prune2edge", "train_prune2edge"]


@dataclass(frozen=True)
class Prune2EdgeSettings:
    """The hyper-parameters of one learner of Prune2Edge.

    Attributes:
        sparsity: Share of each kernel that is removed.
        frequency: Batches between the updates of the masks.
        batch_size: Samples in a batch.
        loss: Name of a Keras loss between probabilities.
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
    losses: Sequence[str] = (
        "categorical_crossentropy",
        "mean_squared_error",
        "mean_absolute_error",
    ),
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
    x: np.ndarray,
    y: np.ndarray,
    *,
    n_learners: int = 20,
    epochs: int = 2,
    learning_rate: float = 1e-5,
    sequential: bool = False,
    from_logits: bool | None = None,
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

    Args:
        parent: A built classifier.
        pool: A `LearnerPool`.
        x: Array of inputs.
        y: Integer labels `(samples,)`, or one-hot rows.
        n_learners, sequential: As for `LearnerCycles.prune2edge`.
        epochs: Integer, epochs of each fit. Defaults to `2`.
        learning_rate: Positive float, for Adam. Defaults to `1e-5`.
        from_logits: Boolean, whether the parent returns logits. `None` to infer it as
            `LearnerPool.add` does. Defaults to `None`.
        run: String, the name of the run within the pool. `None` for the run that
            resumes, or else `"prune2edge"`, with a number if that is taken. Defaults to
            `None`.
        seed: Integer, for the hyper-parameters and the order of the batches; sets
            Keras's global seeds. Defaults to `0`.
        verbose: `"auto"` or 1 for a progress bar, 0 for silence. Defaults to
            `"auto"`.
        **ranges: The ranges of `draw_prune2edge`, to change them.

    Raises:
        ValueError: If `from_logits` cannot be inferred, the parent cannot be saved and
            loaded, or the pool has a run of this name with another parent, other data
            or other arguments.

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
    if from_logits is None:
        from_logits = infer_from_logits(parent)
    if from_logits is None:
        raise ValueError(
            "Expected a parent that is compiled with a loss that has `from_logits`, or "
            f"that ends in a softmax. Received: {parent.name!r}, which has neither. "
            "Pass `from_logits=`."
        )
    warn_if_untrained(parent)
    check_members(pool, parent)
    targets = _one_hot(y, parent.output_shape[-1])
    options = (epochs, learning_rate, sequential, from_logits, seed)
    arrays = hash_arrays([np.asarray(x), targets, *parent.get_weights()])
    described = repr((options, sorted(ranges.items()), arrays))
    content = hashlib.sha256(described.encode()).hexdigest()
    run = begin_repeatable_run(pool, run, default="prune2edge", content=content)
    bar = keras.utils.Progbar(
        n_learners, verbose=1 if verbose == "auto" else verbose, unit_name="learner"
    )
    before = parent
    for index in range(n_learners):
        name = name_in_run(pool, f"{run}-{index:04d}", run)
        if name in pool:
            before = pool[name].load() if sequential else parent
        else:
            settings = draw_prune2edge(index, seed, **ranges)
            model = layers.clone(before if sequential else parent)
            keras.utils.set_random_seed(seed * 100_003 + index)
            _tune(model, settings, x, targets, from_logits, epochs, learning_rate)
            pool.add(
                model,
                name=name,
                run=run,
                epoch=epochs,
                seed=seed,
                metrics=asdict(settings),
                from_logits=from_logits,
                origin="Prune2Edge",
            )
            before = model
        bar.add(1)
    Runs(pool.path).finish(run)


def _tune(model, settings, x, targets, from_logits, epochs, learning_rate):
    layers.prepare(model)
    for kernel in layers.kernels(model):  # of the previous learner
        kernel.set_mask(np.ones(kernel.mask.shape, bool))
    loss = keras.losses.get(settings.loss)
    model.compile(
        keras.optimizers.Adam(learning_rate),
        _OnProbabilities(loss) if from_logits else loss,
    )
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

    def __init__(self, loss):
        super().__init__()
        self.loss = loss

    def call(self, y_true, y_pred):
        return self.loss(y_true, ops.softmax(y_pred))


def _one_hot(y, n_classes):
    y = np.asarray(y)
    return y if y.ndim == 2 else keras.utils.to_categorical(y, n_classes)
