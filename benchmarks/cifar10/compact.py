"""Channel pruning during training, against networks small from the start.

    python -m benchmarks.cifar10.compact --data cifar10.npz

Every row trains on the same images for the same number of epochs and ends within the
same budget of multiply-accumulates. Rows that prune during training have their final
widths after three fifths of the run. `uniform` trains a network of uniform width from
scratch, `uniform, pressed` does so with the regularisation of `group norms`, and
`found widths` trains one with the widths that Taylor importance found. `one-shot`
trains the whole network for three fifths of the epochs, cuts it by magnitude and
trains the rest. `group norms` is the default of `ChannelPruning`; its strength was
chosen on held-out images of two other seeds among 0, 0.001, 0.003, 0.006 and 0.01.
All other settings were fixed before the first run. Rows are written as they complete;
an interrupted run resumes.
"""

import itertools
import time
from dataclasses import dataclass
from functools import partial

import keras
import numpy as np

from benchmarks.cifar10.compact_report import table
from benchmarks.lib import data, nets
from benchmarks.lib.results import RESULTS_FOLDER, ResultsFile, parser
from keras_micronets import channels
from keras_micronets.callbacks import ChannelPruning
from keras_micronets.channels import importance
from keras_micronets.learning_rates import Cosine

RESULTS = RESULTS_FOLDER / "compact.json"
BUDGETS = {"half": 0.5, "quarter": 0.25}
WIDTHS = {"round_to": 4, "min_channels": 4}
CUT_AT = 0.6


@dataclass(frozen=True)
class Preset:
    """The size of an experiment.

    Attributes:
        net: One of `nets.NETS`.
        size: Side of the images.
        train_size: Images to train on.
        epochs: Epochs of every row.
        batch_size: Images a batch.
        peak: Learning rate that the cosine of Adam begins at.
    """

    net: str
    size: int
    train_size: int
    epochs: int
    batch_size: int
    peak: float


PRESETS = {
    "cpu": Preset("resnet8", 16, 5_000, 20, 64, 3e-3),
    "full": Preset("resnet20", 32, 50_000, 200, 128, 3e-3),
    "smoke": Preset("resnet8", 16, 500, 2, 64, 3e-3),
}


class Experiment:
    """One seed: its data, and how rows are trained and scored."""

    def __init__(self, path, preset, seed):
        self.preset, self.seed, held_out = preset, seed, 500
        self.train, _, self.test = data.load(
            path,
            train_size=preset.train_size + held_out,
            choose_size=held_out,
            seed=seed,
            size=preset.size,
        )

    def new(self):
        keras.utils.set_random_seed(self.seed)
        side = self.preset.size
        return nets.NETS[self.preset.net]((side, side, 3))

    def fit(self, model, callbacks=(), until=1.0, since=0.0):
        """Train a model over a part of the run's epochs, along its cosine."""
        preset = self.preset
        if not model.compiled:
            model.compile(
                keras.optimizers.Adam(preset.peak),
                keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            )
        cosine = Cosine(preset.peak)
        rate = keras.callbacks.LearningRateScheduler(
            lambda epoch: cosine(epoch / preset.epochs)
        )
        batches = data.Augmented(
            *self.train, batch_size=preset.batch_size, seed=self.seed
        )
        model.fit(
            batches,
            initial_epoch=round(since * preset.epochs),
            epochs=round(until * preset.epochs),
            verbose=0,
            callbacks=[*callbacks, rate],
        )
        return model

    def score(self, model):
        x, y = self.test
        logits = model.predict(x, verbose=0, batch_size=500)
        likelihood = keras.ops.convert_to_numpy(keras.ops.softmax(logits))
        likelihood = likelihood[np.arange(len(y)), y]
        return {
            "accuracy": float(np.mean(logits.argmax(-1) == y)),
            "nll": float(-np.log(np.maximum(likelihood, 1e-12)).mean()),
            "params": model.count_params(),
            "macs": channels.count_macs(model),
        }


def whole(experiment, macs):
    return experiment.fit(experiment.new())


def pruned(importance, experiment, macs, **options):
    callback = ChannelPruning(
        macs=macs,
        importance=importance,
        data=experiment.train,
        end=CUT_AT,
        seed=experiment.seed,
        **WIDTHS,
        **options,
    )
    experiment.fit(experiment.new(), [callback])
    return callback.compact_


def uniform(experiment, macs):
    return experiment.fit(uniform_net(experiment, macs, experiment.seed))


def pressed(experiment, macs):
    """Uniform width, its norms shrunk as those of the networks that are cut."""
    return press(experiment, uniform_net(experiment, macs, experiment.seed))


def whole_pressed(experiment, macs):
    return press(experiment, experiment.new())


def uniform_net(experiment, macs, seed):
    """Return a network of uniform width that is not trained."""
    model = experiment.new()
    plan = channels.plan(model, macs=macs, allocation="uniform", **WIDTHS)
    return fresh(channels.cut(model, plan), seed)


def press(experiment, model):
    """Train a network with the regularisation that cutting brings, and cut nothing."""
    callback = ChannelPruning(macs=1.0, end=CUT_AT, **WIDTHS)
    experiment.fit(model, [callback])
    return callback.compact_


def found_widths(experiment, macs):
    """Forget the weights, and keep the widths."""
    small = pruned(importance.Taylor(), experiment, macs)
    return experiment.fit(fresh(small, experiment.seed))


def one_shot(experiment, macs):
    model = experiment.fit(experiment.new(), until=CUT_AT)
    plan = channels.plan(model, macs=macs, importance=importance.Magnitude(), **WIDTHS)
    return experiment.fit(channels.cut(model, plan), since=CUT_AT)


def fresh(model, seed):
    """Return the model with weights that no training has seen."""
    keras.utils.set_random_seed(seed)
    return type(model).from_config(model.get_config())


ROWS = {
    "whole network": whole,
    "whole network, pressed": whole_pressed,
    "uniform": uniform,
    "uniform, pressed": pressed,
    "Taylor": partial(pruned, importance.Taylor()),
    "group norms": partial(pruned, None),
    "group norms, hardly pushed": partial(pruned, importance.GroupNorm(strength=0.001)),
    "scales": partial(pruned, importance.NormalizationScale(strength=0.003)),
    "magnitude": partial(pruned, importance.Magnitude()),
    "random": partial(pruned, importance.Random()),
    "one-shot": one_shot,
    "found widths": found_widths,
}


def main():
    arguments = parse()
    preset = PRESETS[arguments.preset]
    file = ResultsFile(arguments.out, vars(preset))
    for seed in arguments.seeds:
        experiment = Experiment(arguments.data, preset, seed)
        for budget, row in itertools.product(BUDGETS, arguments.rows):
            of = "all" if row.startswith("whole") else budget
            about = {"seed": seed, "budget": of, "row": row}
            if not file.has(about):
                start = time.perf_counter()
                found = experiment.score(ROWS[row](experiment, BUDGETS[budget]))
                seconds = round(time.perf_counter() - start, 1)
                file.add({**about, **found, "seconds": seconds})
    print(table(file.results))


def parse():
    options = parser(__doc__, ROWS, RESULTS)
    options.add_argument("--preset", choices=PRESETS, default="cpu")
    return options.parse_args()


if __name__ == "__main__":
    main()
