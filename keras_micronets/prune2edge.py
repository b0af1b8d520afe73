"""What one `fit` cannot do: learners that differ in batch size and loss."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import keras
import numpy as np
from keras import ops

from keras_micronets import layers
from keras_micronets.callbacks import WeightPruning
from keras_micronets.learners import LearnerPool
from keras_micronets.learners.outputs import settle_from_logits
from keras_micronets.schedules import Constant


@dataclass(frozen=True)
class Prune2EdgeSettings:
    """The hyper-parameters that one learner of Prune2Edge is drawn with.

    Attributes:
        sparsity: Share of each kernel that is removed.
        frequency: Batches between the updates of the masks.
        batch_size: Samples a batch.
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
    """Draw the settings of one learner of Prune2Edge.

    Args:
        index: Integer, the learner; the same index and seed draw the same.
        seed: Integer. Defaults to `0`.
        sparsity: Pair of floats, the ends of a uniform draw, rounded to two
            decimals. Defaults to `(0.2, 0.55)`.
        frequencies: Integers. Defaults to `(50, 75, 100)`.
        batch_sizes: Integers. Defaults to `(16, 32, 64)`.
        losses: Names of losses. Defaults to cross-entropy, mean squared and mean
            absolute error.
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
    chain: bool = False,
    from_logits: bool | None = None,
    run: str = "prune2edge",
    seed: int = 0,
    verbose: int | str = "auto",
    **ranges,
) -> None:
    """Fill a pool with the learners of Prune2Edge, one fit each.

    Each learner is a copy of the parent, pruned by magnitude to a sparsity drawn at
    random, and tuned with a batch size, a loss and a frequency drawn likewise. The
    parent stays as it is. A run that was interrupted goes on: learners that the pool
    has already are not trained again.

    Args:
        parent: A built classifier.
        pool: A `LearnerPool`.
        x: Array of inputs.
        y: Integer labels `(samples,)`, or one-hot rows.
        n_learners: Integer. Defaults to `20`; the authors draw 500.
        epochs: Integer, of each fit. Defaults to `2`.
        learning_rate: Positive float, of Adam. Defaults to `1e-5`.
        chain: Boolean, whether each learner goes on from the one before. The authors'
            code does so in fact: it wraps one set of layers again and again. Defaults
            to `False`, independent copies, as the paper says.
        from_logits: Boolean, whether the parent puts out logits. `None` to settle it
            as `LearnerPool.add` does. Defaults to `None`.
        run: String that names the run within the pool. Defaults to `"prune2edge"`.
        seed: Integer that the settings and the order of the batches are drawn by;
            Keras's global seeds are set to it. Defaults to `0`.
        verbose: `"auto"` or 1 for a progress bar, 0 for silence. Defaults to
            `"auto"`.
        **ranges: The ranges of `draw_prune2edge`.

    Raises:
        ValueError: If nothing tells whether the parent puts out logits.

    Example:

    ```python
    pool = keras_micronets.LearnerPool("pool")
    keras_micronets.train_prune2edge(parent, pool, x_train, y_train, n_learners=20)
    ```

    Reference: Alhalabi, Gaber and Basurra 2020, "Prune2Edge: A Multi-Phase Pruning
    Pipelines to Deep Ensemble Learning in IIoT"; ranges as in the authors' code for
    FedNets.
    """
    if from_logits is None:
        from_logits = settle_from_logits(parent)
    if from_logits is None:
        raise ValueError(
            "Expected a parent that is compiled with a loss that has `from_logits`, or "
            f"ends in a softmax. Received: {parent.name!r}, which tells neither. Pass "
            "`from_logits=`."
        )
    targets = _one_hot(y, parent.output_shape[-1])
    bar = keras.utils.Progbar(
        n_learners, verbose=1 if verbose == "auto" else verbose, unit_name="learner"
    )
    before = parent
    for index in range(n_learners):
        name = f"{run}-{index:04d}"
        if name in pool:
            before = pool[name].load() if chain else parent
        else:
            settings = draw_prune2edge(index, seed, **ranges)
            model = layers.clone(before if chain else parent)
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


def _tune(model, settings, x, targets, from_logits, epochs, learning_rate):
    layers.prepare(model)
    for kernel in layers.kernels(model):  # a chain draws its masks anew
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
    """A loss between probabilities, for a model that puts out logits."""

    def __init__(self, loss):
        super().__init__()
        self.loss = loss

    def call(self, y_true, y_pred):
        return self.loss(y_true, ops.softmax(y_pred))


def _one_hot(y, n_classes):
    y = np.asarray(y)
    return y if y.ndim == 2 else keras.utils.to_categorical(y, n_classes)
