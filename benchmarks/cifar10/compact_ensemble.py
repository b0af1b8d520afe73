"""Four small networks with the multiply-accumulates of one.

    python -m benchmarks.cifar10.compact_ensemble --data cifar10.npz

The baseline is ResNet-8, trained for all epochs. Four learners, each with a quarter
of its multiply-accumulates, come from one `fit` with as many epochs: the first half
trains the parent and cuts it to twice a learner's budget, the rest is divided among
the learners, whose channels are sampled by their norms times random factors. The
parent is the baseline's network or one twice as wide. The other rows are the baseline
with the regularisation of channel pruning, one network cut from the wide one to the
baseline's multiply-accumulates, and four networks of uniform width trained from
scratch that share the epochs. All rows are scored as int8 files on all test images;
the probabilities of four networks are averaged.
"""

import copy
import tempfile
import time
from functools import partial
from pathlib import Path

import keras
import numpy as np

import keras_micronets as kmn
from benchmarks.cifar10 import compact
from benchmarks.cifar10.compact_ensemble_report import table
from benchmarks.lib import data, nets
from benchmarks.lib.results import RESULTS_FOLDER, ResultsFile, parser
from keras_micronets import channels
from keras_micronets.callbacks import ChannelPruning, Cycle, LearnerCycles, masks
from keras_micronets.edge.member import Member
from keras_micronets.learning_rates import Cosine

RESULTS = RESULTS_FOLDER / "compact_ensemble.json"
EPOCHS, N_LEARNERS, N_REPRESENTATIVE = 40, 4, 200


class Experiment(compact.Experiment):
    """One seed; networks have the width that a row asks for."""

    def new(self, width=1.0):
        keras.utils.set_random_seed(self.seed)
        side = self.preset.size
        return nets.resnet8((side, side, 3), width=width)

    def fit_cycles(self, model, cycles):
        """Train a model with learning rates that its cycles set."""
        model.compile(
            keras.optimizers.Adam(self.preset.peak),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        size = self.preset.batch_size
        batches = data.Augmented(*self.train, batch_size=size, seed=self.seed)
        model.fit(batches, epochs=self.preset.epochs, verbose=0, callbacks=[cycles])

    def score_files(self, models):
        """Score the mean of the probabilities of int8 files."""
        x, y = self.test
        probabilities, sizes = [], []
        with tempfile.TemporaryDirectory() as folder:
            for model in models:
                path = Path(folder) / "model.tflite"
                kmn.export_tflite(
                    model, path, representative_data=self.train[0][:N_REPRESENTATIVE]
                )
                member = Member(path, from_logits=True)
                probabilities.append(member.predict(x))
                sizes.append(path.stat().st_size)
        found = [float(np.mean(p.argmax(-1) == y)) for p in probabilities]
        mean = np.mean(probabilities, axis=0)
        likelihood = mean[np.arange(len(y)), y]
        return {
            "accuracy": float(np.mean(mean.argmax(-1) == y)),
            "nll": float(-np.log(np.maximum(likelihood, 1e-12)).mean()),
            "member_accuracy": float(np.mean(found)),
            "macs": sum(map(channels.count_macs, models)),
            "bytes": sum(sizes),
        }


def baseline(experiment):
    return [experiment.fit(experiment.new())]


def baseline_pressed(experiment):
    return [compact.press(experiment, experiment.new())]


def learners(experiment, width):
    """The learners of one fit, cut from a parent."""
    model = experiment.new(width)
    share = quarter(experiment, model)
    mask = masks.Channels(macs=share, noise=0.3, **compact.WIDTHS)
    peak = experiment.preset.peak
    cycle = Cycle(initial="parent", mask=mask, learning_rate=Cosine(peak), compact=True)
    with tempfile.TemporaryDirectory() as folder:
        pool = kmn.LearnerPool(Path(folder) / "pool")
        cycles = LearnerCycles(
            *(pool, N_LEARNERS, cycle),
            warmup=0.5,
            warmup_learning_rate=Cosine(peak),
            callbacks=[ChannelPruning(macs=2 * share, end=0.4, **compact.WIDTHS)],
            seed=experiment.seed,
        )
        experiment.fit_cycles(model, cycles)
        return [learner.load() for learner in pool]


def one_cut(experiment):
    """One network of the baseline's multiply-accumulates, cut from the wide one."""
    model = experiment.new(2.0)
    callback = ChannelPruning(
        macs=4 * quarter(experiment, model),
        end=compact.CUT_AT,
        seed=experiment.seed,
        **compact.WIDTHS,
    )
    experiment.fit(model, [callback])
    return [callback.compact_]


def from_scratch(experiment):
    """Networks of uniform width that share the epochs."""
    shorter = copy.copy(experiment)
    shorter.preset = preset(EPOCHS // N_LEARNERS)
    share = quarter(experiment, experiment.new())
    seeds = [100 * (1 + experiment.seed) + member for member in range(N_LEARNERS)]
    return [shorter.fit(compact.uniform_net(experiment, share, seed)) for seed in seeds]


def quarter(experiment, model):
    """A quarter of the baseline's multiply-accumulates, as a share of a model's."""
    whole = channels.count_macs(experiment.new())
    return whole / N_LEARNERS / channels.count_macs(model)


def preset(epochs):
    return compact.Preset("resnet8", 16, 5_000, epochs, 64, 3e-3)


ROWS = {
    "baseline": baseline,
    "baseline, pressed": baseline_pressed,
    "four learners of it": partial(learners, width=1.0),
    "four learners of one twice as wide": partial(learners, width=2.0),
    "one cut from one twice as wide": one_cut,
    "four from scratch": from_scratch,
}


def main():
    arguments = parser(__doc__, ROWS, RESULTS).parse_args()
    file = ResultsFile(arguments.out, vars(preset(EPOCHS)))
    for seed in arguments.seeds:
        experiment = Experiment(arguments.data, preset(EPOCHS), seed)
        for row in arguments.rows:
            about = {"seed": seed, "row": row}
            if not file.has(about):
                start = time.perf_counter()
                found = experiment.score_files(ROWS[row](experiment))
                seconds = round(time.perf_counter() - start, 1)
                file.add({**about, **found, "seconds": seconds})
    print(table(file.results))


if __name__ == "__main__":
    main()
