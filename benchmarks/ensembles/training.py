"""One seed of a task: its data, its networks, and what training them costs."""

from functools import cached_property

import keras

import keras_micronets as kmn
from keras_micronets import channels

__all__ = ["FORWARD", "AverageOfLastThird", "Run", "SmoothedCrossentropy", "reestimate"]

FORWARD = 1 / 3  # cost of a prediction, as a share of a training step


class Run:
    """One seed of a task.

    Costs are multiply-accumulates of training relative to the baseline's. A sparse
    kernel costs what a dense one does, and a prediction a third of a training step.

    Args:
        task: A `Task`.
        path: Path of its data.
        seed: Integer.
        folder: Where trained members are kept.
        weight_decays: Dictionary, the weight decay by the name of a row; `None` if all
            are given to `fit`.

    Attributes:
        row: Name of the row that is trained, under which `fit` keeps its backup.
    """

    row = ""

    def __init__(self, task, path, seed, folder, weight_decays=None):
        self.task, self.seed, self.folder = task, seed, folder
        self.weight_decays = weight_decays or {}
        self.train, self.held_out, self.test = task.load(path, seed)
        folder.mkdir(parents=True, exist_ok=True)

    @cached_property
    def baseline_macs(self):
        return channels.count_macs(self.task.build(1.0))

    def macs(self, *models):
        """Return the multiply-accumulates of models, relative to the baseline's."""
        return sum(map(channels.count_macs, models)) / self.baseline_macs

    def batches(self, seed=None):
        """Return the augmented training data."""
        seed = self.seed if seed is None else seed
        size = self.task.batch_size
        return self.task.batches(*self.train, batch_size=size, seed=seed)

    def build(self, width=1.0, member=0):
        """Return an untrained network, the same for the same member."""
        keras.utils.set_random_seed(1000 * self.seed + member)
        return self.task.build(width)

    def pool(self, name):
        return kmn.LearnerPool(self.folder / f"pool {name}")

    def fit(
        self,
        model,
        *,
        epochs=1.0,
        decay=None,
        batches=None,
        loss=None,
        callbacks=(),
        name=None,
    ):
        """Train a model with AdamW along one cosine, resumable at each epoch.

        Args:
            model: The network.
            epochs: Multiple of the baseline's epochs. Defaults to `1.0`.
            decay: Weight decay; `None` for that of "regularised". Defaults to `None`.
            batches: Data; `None` for the augmented training data. Defaults to `None`.
            loss: Loss; `None` for cross-entropy. Defaults to `None`.
            callbacks: Of `keras.Model.fit`.
            name: Name of its backup; `None` for that of the row. Defaults to `None`.
        """
        batches = self.batches() if batches is None else batches
        n_epochs = round(epochs * self.task.epochs)
        n_steps = n_epochs * len(batches)
        rate = keras.optimizers.schedules.CosineDecay(self.task.peak, n_steps)
        self.compile(model, rate, decay=decay, loss=loss)
        backup = keras.callbacks.BackupAndRestore(
            self.folder / "backup" / (name or self.row), double_checkpoint=True
        )
        callbacks = [*callbacks, backup]
        model.fit(batches, epochs=n_epochs, verbose=0, callbacks=callbacks)
        return model

    def compile(self, model, rate, *, decay=None, loss=None):
        decay = self.weight_decays["regularised"] if decay is None else decay
        crossentropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(
            keras.optimizers.AdamW(rate, weight_decay=decay), loss or crossentropy
        )

    def fit_cycles(self, model, cycles, *, epochs=1.0):
        """Train a model whose learning rate callbacks set."""
        self.compile(model, self.task.peak)
        n_epochs = round(epochs * self.task.epochs)
        model.fit(self.batches(), epochs=n_epochs, verbose=0, callbacks=[cycles])

    def member(self, index, decay):
        """Return a network that was trained alone with a weight decay, kept on disk."""
        name = f"member {index}, decay {decay:g}"
        path = self.folder / f"{name}.keras"
        if not path.exists():
            model = self.build(member=index)
            batches = self.batches(1000 * self.seed + index)
            self.fit(model, decay=decay, batches=batches, name=name).save(path)
        return keras.saving.load_model(path, compile=False)


class AverageOfLastThird(keras.callbacks.Callback):
    """Average the weights after each epoch of the last third of a run."""

    def on_train_begin(self, logs=None):
        self.weights, self.n = None, 0

    def on_epoch_end(self, epoch, logs=None):
        if 3 * (epoch + 1) <= 2 * self.params["epochs"]:
            return
        self.n += 1
        new = self.model.get_weights()
        old = new if self.weights is None else self.weights
        self.weights = [a + (w - a) / self.n for a, w in zip(old, new, strict=True)]


def reestimate(model, x):
    """Replace the statistics of batch normalisation by those of `x`."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model(x, training=True)  # all of the data is one batch
    return model


class SmoothedCrossentropy(keras.losses.Loss):
    """Cross-entropy of logits and smoothed integer labels."""

    def __init__(self, smoothing):
        super().__init__()
        self.smoothing = smoothing

    def call(self, y_true, y_pred):
        n_classes = y_pred.shape[-1]
        labels = keras.ops.cast(keras.ops.reshape(y_true, (-1,)), "int32")
        return keras.losses.categorical_crossentropy(
            keras.ops.one_hot(labels, n_classes),
            y_pred,
            from_logits=True,
            label_smoothing=self.smoothing,
        )
