"""The rows of `ensembles/compare.py`.

Each is a function from a `Run` to the models of the row and their training cost.
"""

from collections.abc import Callable
from functools import partial

import keras_micronets as kmn
from benchmarks.ensembles.scoring import mean_probabilities
from benchmarks.ensembles.training import (
    FORWARD,
    AverageOfLastThird,
    SmoothedCrossentropy,
    reestimate,
)
from keras_micronets import selection
from keras_micronets.callbacks import (
    ChannelPruning,
    Cycle,
    LearnerCycles,
    QuantizationAwareTraining,
    WeightPruning,
    masks,
)
from keras_micronets.learning_rates import Cosine
from keras_micronets.schedules import PolynomialDecay

__all__ = ["ROWS"]

N_MEMBERS = 4
ENSEMBLE = "deep ensemble of 2"  # the row that the weight decay of ensembles is from


def baseline(run):
    return [run.fit(run.build(), decay=0.0)], 1.0


def regularized(run, decay=None):
    decay = run.weight_decays["regularised"] if decay is None else decay
    return [run.member(0, decay)], 1.0


def weight_average(run):
    model, average = run.build(), AverageOfLastThird()
    run.fit(model, callbacks=[average])
    model.set_weights(average.weights)
    return [reestimate(model, run.train[0])], 1.0


def label_smoothing(run):
    return [run.fit(run.build(), loss=SmoothedCrossentropy(0.1))], 1.0


def longer(run, epochs):
    return [run.fit(run.build(), epochs=epochs)], epochs


def narrower(run, width):
    model = run.fit(run.build(width))
    return [model], run.macs(model)


def deep_ensemble(run, n, decay=None):
    decay = run.weight_decays[ENSEMBLE] if decay is None else decay
    return [run.member(i, decay) for i in range(n)], n


def best_single(run, n):
    """The member of a deep ensemble with the lowest held-out loss."""
    members, _ = deep_ensemble(run, n)
    x, y = run.held_out
    losses = [
        selection.negative_log_likelihood(mean_probabilities([member], x), y)
        for member in members
    ]
    return [members[losses.index(min(losses))]], n


def pair(run, decay=None):
    """Two members of one fit, with the bytes and the training cost of the baseline."""
    decay = run.weight_decays["2 side by side"] if decay is None else decay
    return side_by_side(run, 2, run.task.pair_width, cost=1.0, decay=decay)


def quartet(run):
    """Four members of one fit; their int8 files fit in the float32 baseline's bytes."""
    decay = run.weight_decays[ENSEMBLE]
    return side_by_side(run, 4, run.task.quartet_width, decay=decay)


def side_by_side(run, n, width, *, cost=None, decay=None):
    """Members of one fit, which is as long as the cost permits."""
    build = partial(run.task.build, width)
    joint = kmn.side_by_side(build, n, seed=1000 * run.seed + 500)
    a_run = run.macs(*joint.members)
    epochs = 1.0 if cost is None else cost / a_run
    run.fit(joint, epochs=epochs, decay=decay)
    return joint.members, epochs * a_run


def distilled(run, teachers, cost, *, weight=0.7, temperature=2.0, epochs=1.0):
    """One network trained with the mean predictions of teachers, quantised as it
    trains.

    Args:
        run: The `Run`.
        teachers: Models.
        cost: Training cost of the teachers.
        weight, temperature: Of the loss.
        epochs: Multiple of the baseline's epochs.
    """
    student = run.build(member=900)
    run.fit(
        student,
        epochs=epochs,
        batches=kmn.distill(teachers, run.batches(), from_logits=True),
        loss=kmn.losses.Distillation(weight, temperature, from_logits=True),
        callbacks=[QuantizationAwareTraining(start=0.5)],
    )
    return [student], cost + epochs * (1.0 + FORWARD * run.macs(*teachers))


def distilled_from(teach, run, **options):
    """A network distilled from the members of another row."""
    return distilled(run, *teach(run), **options)


def quantized(run):
    """The regularised network, quantised as it trains."""
    model = run.build()
    run.fit(model, callbacks=[QuantizationAwareTraining(start=0.5)])
    return [model], 1.0


def pruned(run, sparsity):
    """The regularised network, pruned and quantised as it trains."""
    model, schedule = run.build(), PolynomialDecay(0.0, sparsity, end=0.5)
    qat = QuantizationAwareTraining(start=0.5)
    run.fit(model, callbacks=[WeightPruning(schedule, allocation="global"), qat])
    return [model], 1.0


def fewer_channels(run, macs):
    """The regularised network, channels of which are pruned as it trains."""
    pruning = ChannelPruning(macs=macs, end=0.5, round_to=4, min_channels=4)
    run.fit(run.build(), callbacks=[pruning])
    return [pruning.compact_], 1.0


def cycles(run, recipe, *, warmup_epochs=0.0, **options):
    """A published recipe with its defaults."""
    pool = run.pool(recipe)
    if not len(pool):
        model = run.build()
        if warmup_epochs:
            run.fit(model, epochs=warmup_epochs)
        made = getattr(LearnerCycles, recipe)(pool, N_MEMBERS, seed=run.seed, **options)
        run.fit_cycles(model, made, epochs=1.0 - warmup_epochs)
    return [learner.load() for learner in pool], 1.0


def restarts(run):
    """One long decay, then four short cycles at half of the rate."""
    pool = run.pool("restarts")
    if not len(pool):
        run.fit_cycles(run.build(), _restarts(run, pool, peak=run.task.peak / 2))
    return [learner.load() for learner in pool], 1.0


def wide_and_sparse(run, width, sparsity):
    """Four cycles of a wide, sparse network, whose connections move between them."""
    pool = run.pool(f"wide {width} sparse {sparsity}")
    model = run.build(width)
    cost = run.macs(model)
    if not len(pool):
        run.fit_cycles(
            model,
            _restarts(
                run,
                pool,
                peak=run.task.peak / 3,
                mask=masks.Regrow(0.2, on_first_cycle=True),
                callbacks=[_sparse(sparsity)],
            ),
        )
    return [learner.load() for learner in pool], cost


def one_wide_and_sparse(run, width, sparsity):
    model = run.build(width)
    cost = run.macs(model)
    run.fit(model, callbacks=[_sparse(sparsity)])
    return [kmn.strip(model)], cost


def cut_from_one(run):
    """Four narrow networks, cut from one parent within one fit."""
    pool = run.pool("cut")
    model = run.build()
    share = 1 / N_MEMBERS
    if not len(pool):
        mask = masks.Channels(macs=share, noise=0.3)
        cycle = Cycle(
            initial="parent",
            mask=mask,
            learning_rate=Cosine(run.task.peak),
            compact=True,
        )
        run.fit_cycles(
            model,
            LearnerCycles(
                *(pool, N_MEMBERS, cycle),
                warmup=0.4,
                warmup_learning_rate=Cosine(run.task.peak),
                callbacks=[ChannelPruning(macs=2 * share, end=0.35)],
                seed=run.seed,
            ),
            epochs=1.6,
        )
    # 0.64 epochs of at most the whole network, 0.96 of a quarter of it.
    return [learner.load() for learner in pool], 0.64 + 0.96 / N_MEMBERS


def _sparse(sparsity):
    schedule = PolynomialDecay(0.0, sparsity, end=0.48)
    return WeightPruning(schedule, allocation="global")


def _restarts(run, pool, *, peak, warmup=0.6, mask=None, **options):
    return LearnerCycles(
        pool,
        N_MEMBERS,
        Cycle(mask=mask, learning_rate=Cosine(peak)),
        warmup=warmup,
        warmup_learning_rate=Cosine(run.task.peak),
        seed=run.seed,
        **options,
    )


ROWS: dict[str, Callable] = {
    "baseline": baseline,
    "regularised": regularized,
    "regularised, decay of ensembles": partial(deep_ensemble, n=1),
    "regularised, QAT": quantized,
    "regularised, weight average": weight_average,
    "label smoothing": label_smoothing,
    "2 side by side": pair,
    "deep ensemble of 2": partial(deep_ensemble, n=2),
    "deep ensemble of 4": partial(deep_ensemble, n=4),
    "best single of 4": partial(best_single, n=4),
    "distilled from 3": partial(distilled_from, partial(deep_ensemble, n=3)),
    "distilled from 1, 3 times as long": partial(
        distilled_from, partial(deep_ensemble, n=1), epochs=3.0
    ),
    "4 side by side": quartet,
    "regularised, 5 times as long": partial(longer, epochs=5),
    "distilled from 4": partial(distilled_from, partial(deep_ensemble, n=4)),
    "distilled from 2 side by side": partial(distilled_from, pair),
    "4 of width 0.5, side by side": partial(side_by_side, n=4, width=0.5),
    "regularised, 2 times as long": partial(longer, epochs=2),
    "width 0.7": partial(narrower, width=0.7),
    "width 0.5": partial(narrower, width=0.5),
    "80 % sparse, QAT": partial(pruned, sparsity=0.8),
    "90 % sparse, QAT": partial(pruned, sparsity=0.9),
    "half of the multiply-accumulates": partial(fewer_channels, macs=0.5),
    "restarts": restarts,
    "snapshot": partial(cycles, recipe="snapshot"),
    "Prune2Edge": partial(cycles, recipe="prune2edge", warmup_epochs=0.5),
    "Prune and Tune": partial(cycles, recipe="prune_and_tune"),
    "FreeTickets": partial(cycles, recipe="free_tickets"),
    "4 cut from one": cut_from_one,
    "4 of width 3, 96 % sparse": partial(wide_and_sparse, width=3, sparsity=0.96),
    "1 of width 3, 96 % sparse": partial(one_wide_and_sparse, width=3, sparsity=0.96),
}
"""Most decisive rows first."""
