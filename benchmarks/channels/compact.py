"""Channel pruning during training, against networks small from the start.

    python -m benchmarks.channels.compact --data cifar10.npz
    python -m benchmarks.channels.compact --task "spoken digits" --data fsdd.npz
    python -m benchmarks.channels.compact --task vibration

Every row trains on the same data for the same number of epochs and ends within the
same budget of multiply-accumulates. Rows that prune during training have their final
widths after three fifths of the run. `uniform` trains a network of uniform width from
scratch, `uniform, pressed` does so with the regularisation of `group norms`,
`uniform, weight decay` with AdamW, and `found widths` trains one with the widths that
Taylor importance found. `one-shot` trains the whole network for three fifths of the
epochs, cuts it by magnitude and trains the rest. `group norms` is the default of
`ChannelPruning`; its strength was chosen on held-out images of two other seeds among
0, 0.001, 0.003, 0.006 and 0.01, the weight decay, other than 0, on those of
`ensembles/compare.py`.
`distilled` rows learn from the outputs of the whole, regularised network, whose
training comes on top. All other settings were fixed before the first run. Rows are
written as they complete; an interrupted run resumes.
"""

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import keras
import numpy as np

import keras_micronets as kmn
from benchmarks.channels.compact_report import table
from benchmarks.ensembles.tasks import TASKS
from benchmarks.lib import data, nets
from benchmarks.lib.results import RESULTS_FOLDER, ResultsFile, commit, parser
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
        load: Function `(path, seed)` that returns `(train, held_out, test)`.
        build: Function without arguments that returns the whole network.
        batches: Class of the augmented batches.
        epochs: Epochs of every row.
        batch_size: Samples a batch.
        peak: Learning rate that the cosine of Adam begins at.
        weight_decay: Weight decay of the row that has one.
    """

    load: Callable
    build: Callable
    batches: type
    epochs: int
    batch_size: int
    peak: float
    weight_decay: float


def images(net, size, train_size, *settings):
    """Return the preset of a network for images of CIFAR-10, 500 of them held out."""

    def load(path, seed):
        options = {"train_size": train_size + 500, "choose_size": 500}
        return data.load(path, **options, seed=seed, size=size)

    def build():
        return nets.NETS[net]((size, size, 3))

    return Preset(load, build, data.Augmented, *settings)


def of_task(name, weight_decay):
    """Return the preset of a task of `ensembles/compare.py`."""
    task = TASKS[name]
    settings = (task.batches, task.epochs, task.batch_size, task.peak)
    return Preset(task.load, task.build, *settings, weight_decay)


PRESETS = {
    "images": images("resnet8", 16, 5_000, 20, 64, 3e-3, 0.3),
    "spoken digits": of_task("spoken digits", 0.1),
    "vibration": of_task("vibration", 1.0),
    "all images": images("resnet20", 32, 50_000, 200, 128, 3e-3, 0.05),
    "smoke": images("resnet8", 16, 500, 2, 64, 3e-3, 0.3),
}


class Experiment:
    """One seed: its data, and how rows are trained and scored."""

    def __init__(self, path, preset, seed):
        self.preset, self.seed = preset, seed
        self.train, _, self.test = preset.load(path, seed)

    def new(self):
        keras.utils.set_random_seed(self.seed)
        return self.preset.build()

    def fit(self, model, callbacks=(), until=1.0, since=0.0, decay=0.0, teacher=None):
        """Train a model over a part of the run's epochs, along its cosine."""
        preset = self.preset
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        batches = preset.batches(
            *self.train, batch_size=preset.batch_size, seed=self.seed
        )
        if teacher is not None:
            loss = kmn.losses.Distillation(from_logits=True)
            batches = kmn.distill(teacher, batches, from_logits=True)
        if not model.compiled:
            model.compile(keras.optimizers.AdamW(preset.peak, weight_decay=decay), loss)
        cosine = Cosine(preset.peak)
        rate = keras.callbacks.LearningRateScheduler(
            lambda epoch: cosine(epoch / preset.epochs)
        )
        model.fit(
            batches,
            initial_epoch=round(since * preset.epochs),
            epochs=round(until * preset.epochs),
            verbose=0,
            callbacks=[*callbacks, rate],
        )
        return model

    @cached_property
    def teacher(self):
        return whole_pressed(self, None)

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


def pruned(importance, experiment, macs, *, allocation="global", **options):
    callback = ChannelPruning(
        macs=macs,
        allocation=allocation,
        importance=importance,
        data=experiment.train,
        end=CUT_AT,
        seed=experiment.seed,
        **WIDTHS,
    )
    experiment.fit(experiment.new(), [callback], **options)
    return callback.compact_


def distilled(experiment, macs):
    return pruned(None, experiment, macs, teacher=experiment.teacher)


def uniform(experiment, macs, **options):
    model = uniform_net(experiment, macs, experiment.seed)
    return experiment.fit(model, **options)


def uniform_decayed(experiment, macs):
    return uniform(experiment, macs, decay=experiment.preset.weight_decay)


def pressed(experiment, macs):
    """Uniform width, its norms shrunk as those of the networks that are cut."""
    return press(experiment, uniform_net(experiment, macs, experiment.seed))


def pressed_distilled(experiment, macs):
    model = uniform_net(experiment, macs, experiment.seed)
    return press(experiment, model, teacher=experiment.teacher)


def whole_pressed(experiment, macs):
    return press(experiment, experiment.new())


def uniform_net(experiment, macs, seed):
    """Return a network of uniform width that is not trained."""
    model = experiment.new()
    plan = channels.plan(model, macs=macs, allocation="uniform", **WIDTHS)
    return fresh(channels.cut(model, plan), seed)


def press(experiment, model, **options):
    """Train a network with the regularisation that cutting brings, and cut nothing."""
    callback = ChannelPruning(macs=1.0, end=CUT_AT, **WIDTHS)
    experiment.fit(model, [callback], **options)
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
    "uniform, weight decay": uniform_decayed,
    "uniform, pressed, distilled": pressed_distilled,
    "Taylor": partial(pruned, importance.Taylor()),
    "group norms": partial(pruned, None),
    "group norms, uniform widths": partial(pruned, None, allocation="uniform"),
    "group norms, distilled": distilled,
    "group norms, hardly pushed": partial(pruned, importance.GroupNorm(strength=0.001)),
    "scales": partial(pruned, importance.NormalizationScale(strength=0.003)),
    "magnitude": partial(pruned, importance.Magnitude()),
    "random": partial(pruned, importance.Random()),
    "one-shot": one_shot,
    "found widths": found_widths,
}


def main():
    arguments = parse()
    file = ResultsFile(arguments.out, {})
    preset = PRESETS[arguments.task]
    for seed in arguments.seeds:
        experiment = Experiment(arguments.data, preset, seed)
        for budget, row in itertools.product(BUDGETS, arguments.rows):
            of = "all" if row.startswith("whole") else budget
            about = {"task": arguments.task, "seed": seed, "budget": of, "row": row}
            if not file.has(about):
                start = time.perf_counter()
                found = experiment.score(ROWS[row](experiment, BUDGETS[budget]))
                seconds = round(time.perf_counter() - start, 1)
                about |= {"epochs": preset.epochs, "commit": commit()}
                file.add({**about, **found, "seconds": seconds})
    print(table(file.results))


def parse():
    options = parser(__doc__, ROWS, RESULTS)
    options.add_argument("--task", choices=PRESETS, default="images")
    return options.parse_args()


if __name__ == "__main__":
    main()
