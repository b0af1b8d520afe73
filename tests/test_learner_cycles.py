from functools import partial

import keras
import numpy as np
import pytest
from backends import BACKEND
from tiny_keras import (
    Interrupt,
    Watch,
    assert_zeros_where_masked,
    can_go,
    compiled,
    data,
    dense_model,
    fit,
    masks,
    norm_model,
)

from keras_micronets import LearnerPool, layers
from keras_micronets.callbacks import Cycle, LearnerCycles, WeightPruning
from keras_micronets.callbacks import masks as samplers
from keras_micronets.callbacks.cycles.cycle import warn_if_untrained
from keras_micronets.layers.optimizer_slots import reset_slots
from keras_micronets.learning_rates import Cosine, OneCycle, PiecewiseConstant
from keras_micronets.schedules import Constant

pytestmark = pytest.mark.filterwarnings("ignore:Expected a trained parent")


@pytest.fixture
def pool(tmp_path):
    return LearnerPool(tmp_path / "pool")


class Rates(keras.callbacks.Callback):
    """Record the learning rate of each batch."""

    def on_train_begin(self, logs=None):
        self.rates = []

    def on_train_batch_begin(self, batch, logs=None):
        self.rates.append(float(self.model.optimizer.learning_rate))


def kernel_of(learner):
    return layers.kernels(learner.load())[0]


def test_each_cycle_ends_with_a_learner(pool):
    model = compiled(dense_model())
    history = fit(model, LearnerCycles(pool, 3, warmup=0.25), epochs=8)
    assert [learner.name for learner in pool] == [
        f"run-000-cycle-00{i}" for i in range(3)
    ]
    assert [learner.epoch for learner in pool] == [4, 6, 8]
    assert pool[2].metrics["accuracy"] == pytest.approx(history.history["accuracy"][7])
    last = pool[2].load()
    for ours, kept in zip(model.get_weights(), last.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, kept)


def test_epochs_that_do_not_divide_train_the_parent(pool):
    fit(compiled(dense_model()), LearnerCycles(pool, 3), epochs=7)
    assert [learner.epoch for learner in pool] == [3, 5, 7]


def test_the_learning_rate_is_set_for_each_batch(pool):
    rates = Rates()
    cycle = Cycle(learning_rate=Cosine(0.1))
    cycles = LearnerCycles(pool, 2, cycle, warmup=1 / 3, warmup_learning_rate=0.5)
    fit(compiled(dense_model()), cycles, rates, epochs=6)
    expected = [0.5] * 20 + [Cosine(0.1)(i / 20) for i in range(20)] * 2
    np.testing.assert_allclose(rates.rates, expected, rtol=1e-5)


def test_a_keras_schedule_counts_the_steps_of_a_cycle(pool):
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 20)
    rates, cycle = Rates(), Cycle(learning_rate=schedule)
    fit(compiled(dense_model()), LearnerCycles(pool, 2, cycle), rates, epochs=4)
    expected = [float(schedule(step)) for step in range(20)] * 2
    np.testing.assert_allclose(rates.rates, expected, rtol=1e-5)


@pytest.mark.skipif(BACKEND == "torch", reason="Keras has no such steps on PyTorch")
def test_learning_rate_follows_executions_of_several_steps(pool):
    rates = Rates()
    cycles = LearnerCycles(pool, 2, Cycle(learning_rate=Cosine(0.1)))
    fit(compiled(dense_model(), steps_per_execution=5), cycles, rates, epochs=2)
    np.testing.assert_allclose(rates.rates, [0.1, 0.05, 0.1, 0.05], rtol=1e-5)


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_learning_rate_where_the_steps_are_not_known(pool):
    def batches():
        for _ in range(10):
            yield data(4)

    rates = Rates()
    cycles = LearnerCycles(pool, 1, Cycle(learning_rate=Cosine(0.1)))
    model = compiled(dense_model())
    model.fit(batches(), epochs=1, verbose=0, shuffle=False, callbacks=[cycles, rates])
    assert set(np.float32(rates.rates)) == {np.float32(0.1)}


def test_each_cycle_starts_with_the_weights_of_the_parent(pool):
    begun = []
    watch = Watch()
    watch.on_epoch_begin = lambda epoch, logs=None: begun.append(
        [w.copy() for w in watch.model.get_weights()]
    )
    cycle = Cycle(initial="parent", learning_rate=0.05)
    fit(
        compiled(dense_model()),
        LearnerCycles(pool, 3, cycle, warmup=0.25),
        watch,
        epochs=8,
    )
    for epoch in (4, 6):
        for then, parent in zip(begun[epoch], begun[2], strict=True):
            np.testing.assert_array_equal(then, parent)
    assert any((a != b).any() for a, b in zip(begun[3], begun[2], strict=True))


def test_each_cycle_continues_from_the_previous_learner(pool):
    weights = {}
    watch = Watch(on_epoch=lambda m, e: weights.update({e: m.get_weights()}))
    watch.on_epoch_begin = lambda epoch, logs=None: weights.update(
        {f"begin {epoch}": watch.model.get_weights()}
    )
    fit(compiled(dense_model()), LearnerCycles(pool, 2), watch, epochs=4)
    for end, begin in zip(weights[1], weights["begin 2"], strict=True):
        np.testing.assert_array_equal(end, begin)


def test_slots_are_empty_in_each_cycle_and_steps_continue(pool):
    seen = []

    class Slots(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            optimizer = self.model.optimizer
            slots = [v for v in optimizer.variables if "momentum" in v.path]
            values = [np.abs(keras.ops.convert_to_numpy(v)).max() for v in slots]
            seen.append((int(optimizer.iterations), max(values, default=0)))

    fit(compiled(dense_model()), LearnerCycles(pool, 2), Slots(), epochs=4)
    assert [steps for steps, _ in seen] == [0, 10, 20, 30]
    assert [largest > 0 for _, largest in seen] == [False, True, False, True]


def test_averages_of_the_weights_start_at_the_weights(pool):
    checked = []

    class Averages(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            optimizer = self.model.optimizer
            averages = [v for v in optimizer.variables if v.path.endswith("_average")]
            pairs = zip(averages, self.model.trainable_variables, strict=True)
            if epoch == 1:
                for average, weight in pairs:
                    np.testing.assert_array_equal(
                        keras.ops.convert_to_numpy(average),
                        keras.ops.convert_to_numpy(weight),
                    )
                    checked.append(average.path)

    model = compiled(dense_model(), keras.optimizers.Adam(use_ema=True))
    fit(model, LearnerCycles(pool, 2), Averages(), epochs=2)
    assert len(checked) == 4


def test_magnitude_samples_a_sparsity_for_each_learner(pool):
    sampler = samplers.Magnitude((0.2, 0.55))
    cycle = Cycle(initial="parent", mask=sampler)
    fit(compiled(dense_model(width=64)), LearnerCycles(pool, 4, cycle), epochs=4)
    found = [learner.sparsity for learner in pool]
    assert all(0.19 < value < 0.56 for value in found)
    assert len({round(value, 2) for value in found}) > 1


def test_magnitude_keeps_the_largest_weights_of_the_parent():
    model = compiled(dense_model())
    layers.prepare(model)
    weights = [kernel.weights.copy() for kernel in layers.kernels(model)]
    samplers.Magnitude(0.5)(model, 0, 0)
    for kernel, before in zip(layers.kernels(model), weights, strict=True):
        gone = np.abs(before[~kernel.mask])
        kept = np.abs(before[can_go(kernel.mask)])
        assert kept.min() >= gone.max()
        assert gone.size == before.size // 2


def test_noise_makes_learners_differ_and_keeps_the_count():
    model = compiled(dense_model(width=64))
    layers.prepare(model)
    values = model.get_weights()
    drawn = []
    for index in range(2):
        model.set_weights(values)
        samplers.Magnitude(0.5, noise=1.0)(model, index, 0)
        drawn.append(masks(model)["hidden"])
    assert (drawn[0] != drawn[1]).any()
    assert drawn[0].sum() == drawn[1].sum() == drawn[0].size // 2


@pytest.mark.parametrize("n", [2, 4])
def test_random_halves_complement_each_other(pool, n):
    cycles = LearnerCycles.prune_and_tune(pool, n, learning_rate=0.01, warmup=0.2)
    fit(compiled(dense_model()), cycles, epochs=5)
    found = [kernel_of(learner).mask for learner in pool]
    for first, second in zip(found[::2], found[1::2], strict=True):
        np.testing.assert_array_equal(first, ~second)
        assert first.sum() == first.size // 2
    heads = [layers.kernels(learner.load())[-1] for learner in pool]
    assert all(head.mask.all() for head in heads)
    if n == 4:
        assert (found[0] != found[2]).any()


def test_snapshots_stay_dense_and_plain(pool):
    model = compiled(dense_model(), keras.optimizers.SGD(0.1))
    fit(model, LearnerCycles.snapshot(pool, 2), epochs=4)
    assert [learner.sparsity for learner in pool] == [0.0, 0.0]
    assert type(model.layers[0]) is keras.layers.Dense


@pytest.mark.parametrize("sequential", [False, True])
def test_prune2edge_starts_from_the_parent_or_the_previous_learner(pool, sequential):
    cycles = LearnerCycles.prune2edge(
        pool, 3, sequential=sequential, learning_rate=1e-3
    )
    assert cycles.cycle.initial == ("previous" if sequential else "parent")
    model = compiled(dense_model())
    fit(model, cycles, epochs=3)
    assert len(pool) == 3
    assert_zeros_where_masked(model)


def test_free_tickets_keep_their_sparsity_and_move_most_connections(pool):
    x, y = data(40)
    cycles = LearnerCycles.free_tickets(
        pool, 2, data=(x, y), sparsity=0.5, frequency=5, learning_rate=0.1
    )
    model = compiled(dense_model(width=64), keras.optimizers.SGD(0.1, momentum=0.9))
    fit(model, cycles, epochs=6)
    assert [round(learner.sparsity, 2) for learner in pool] == [0.5, 0.5]
    first, second = (kernel_of(learner).mask for learner in pool)
    stayed = (first & second).sum() / first.sum()
    assert stayed < 0.6


def test_callbacks_sparsify_during_the_run(pool):
    cycles = LearnerCycles(pool, 2, callbacks=[WeightPruning(Constant(0.5))])
    history = fit(compiled(dense_model()), cycles, epochs=4)
    assert history.history["sparsity"] == pytest.approx([0.5] * 4, abs=0.01)
    assert [round(learner.sparsity, 2) for learner in pool] == [0.5, 0.5]


def test_callbacks_of_the_cycles_receive_every_hook(pool):
    called = {"fit": [], "outside": []}

    class Hooks(keras.callbacks.Callback):
        def __init__(self, name):
            super().__init__()
            hooks = [name for name in dir(self) if name.startswith("on_")]
            for hook in hooks:
                note = partial(self.note, called[name], hook, getattr(self, hook))
                setattr(self, hook, note)

        def note(self, calls, hook, call, *args, **kwargs):
            calls.append((hook, self.params["epochs"], self.model.name))
            call(*args, **kwargs)

        def on_epoch_end(self, epoch, logs=None):
            logs["epochs"] = epoch + 1

    (x, y), model = data(), compiled(dense_model())
    cycles = LearnerCycles(pool, 1, callbacks=[Hooks("fit")])
    both = [cycles, Hooks("outside")]
    history = fit(model, *both, epochs=2, validation_data=(x, y))
    assert history.history["epochs"] == [1, 2]
    assert pool[0].metrics["epochs"] == 2
    model.evaluate(x, y, verbose=0, callbacks=both)
    model.predict(x, verbose=0, callbacks=both)
    assert len({hook for hook, *_ in called["fit"]}) == 16
    assert called["fit"] == called["outside"]


def test_quantisers_are_switched_on_within_each_cycle(pool):
    shares = []
    watch = Watch(on_batch=lambda m, step: shares.append(layers.quantized_share(m)))
    cycle = Cycle(initial="parent", quantize=0.5)
    cycles = LearnerCycles(pool, 2, cycle, warmup=1 / 3)
    fit(compiled(dense_model()), cycles, watch, epochs=6)
    assert shares[:20] == [0.0] * 20
    assert shares[20:40] == shares[40:] == [0.0] * 9 + [1.0] * 11
    assert [learner.quantized for learner in pool] == [True, True]


def test_logs_carry_sparsity_and_disagreement(pool):
    x, y = data(60, seed=1)
    cycle = Cycle(initial="parent", mask=samplers.RandomHalves())
    cycles = LearnerCycles(pool, 3, cycle, validation_data=(x, y))
    history = fit(compiled(dense_model()), cycles, epochs=6).history
    assert len(history["sparsity"]) == 6
    answers = pool.predict(x, verbose=0).argmax(-1)
    second = (answers[0] != answers[1]).mean()
    third = np.mean([(answers[2] != answers[i]).mean() for i in range(2)])
    nan = float("nan")
    expected = [nan, nan, nan, second, second, third]
    np.testing.assert_allclose(history["disagreement"], expected, atol=1e-6)


def test_resumes_in_the_cycle_it_was_in(pool, tmp_path):
    def run(pool, backup, *extra):
        cycle = Cycle(
            initial="parent",
            mask=samplers.Magnitude(0.5, noise=1.0),
            learning_rate=OneCycle(0.01),
        )
        fit(
            compiled(dense_model()),
            LearnerCycles(pool, 3, cycle, warmup=0.25, seed=3),
            keras.callbacks.BackupAndRestore(backup),
            *extra,
            epochs=8,
            shuffle=False,
        )

    whole = LearnerPool(tmp_path / "whole")
    run(whole, tmp_path / "backup-whole")
    for epoch in (3, 4, 7):
        with pytest.raises(InterruptedError):
            run(pool, tmp_path / "backup", Interrupt(epoch))
    run(pool, tmp_path / "backup")
    assert [x.name for x in pool] == [x.name for x in whole]
    for ours, theirs in zip(pool, whole, strict=True):
        pairs = zip(ours.load().get_weights(), theirs.load().get_weights(), strict=True)
        for a, b in pairs:
            np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_second_fit_is_another_run(pool):
    cycles = LearnerCycles(pool, 2, Cycle(initial="parent"))
    model = compiled(dense_model())
    fit(model, cycles, epochs=2)
    fit(model, cycles, epochs=2)
    assert [learner.run for learner in pool] == ["run-000"] * 2 + ["run-001"] * 2


def wrapped(rate):
    return keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(rate))


OPTIMIZERS = {
    "Adam": keras.optimizers.Adam,
    "AdamW": keras.optimizers.AdamW,
    "RMSprop": keras.optimizers.RMSprop,
    "SGD": keras.optimizers.SGD,
    "in a LossScaleOptimizer": wrapped,
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_the_compiled_rate_is_the_peak_and_is_given_back(pool, make):
    rates, model = Rates(), compiled(dense_model(), make(0.003))
    fit(model, LearnerCycles.snapshot(pool, 2), rates, epochs=4)
    expected = [0.003 * Cosine(1.0)(i / 20) for i in range(20)] * 2
    np.testing.assert_allclose(rates.rates, expected, rtol=1e-5)
    assert float(model.optimizer.learning_rate) == np.float32(0.003)
    fit(model, LearnerCycles.snapshot(pool, 2), rates, epochs=4)
    np.testing.assert_allclose(rates.rates, expected, rtol=1e-5)


def test_recipes_keep_the_published_ratios(pool):
    def rates_of(name, n_learners, epochs, **options):
        rates, model = Rates(), compiled(dense_model(), keras.optimizers.SGD(0.5))
        cycles = getattr(LearnerCycles, name)(pool, n_learners, **options)
        fit(model, cycles, rates, epochs=epochs)
        return np.float32(rates.rates) / 0.5

    tickets = rates_of("free_tickets", 2, 6, data=data(), sparsity=0.5)
    halves = [1.0] * 10 + [0.1] * 10
    np.testing.assert_allclose(tickets, [1.0] * 20 + halves * 2, rtol=1e-5)
    tuned = rates_of("prune_and_tune", 2, 4, warmup=0.5)
    cycle = [OneCycle(1.0)(i / 10) for i in range(10)]
    np.testing.assert_allclose(tuned, [1.0] * 20 + cycle * 2, rtol=1e-5)
    pruned = rates_of("prune2edge", 2, 3, warmup=0.3)
    np.testing.assert_allclose(pruned, [1.0] * 10 + [0.1] * 20, rtol=1e-5)


def test_recipes_take_numbers_functions_and_keras_schedules(pool):
    def rates_of(name, rate, **options):
        rates, model = Rates(), compiled(dense_model(), keras.optimizers.SGD(0.5))
        cycles = getattr(LearnerCycles, name)(pool, 1, learning_rate=rate, **options)
        fit(model, cycles, rates, epochs=2)
        return rates.rates

    schedule = keras.optimizers.schedules.ExponentialDecay(0.2, 10, 0.5)
    decayed = [0.2 * 0.5 ** (i / 10) for i in range(20)]
    np.testing.assert_allclose(rates_of("snapshot", schedule), decayed, rtol=1e-5)
    expected = [Cosine(0.2)(i / 20) for i in range(20)]
    np.testing.assert_allclose(rates_of("snapshot", 0.2), expected, rtol=1e-5)
    own = PiecewiseConstant([0.3, 0.1])
    expected = [0.3] * 10 + [0.1] * 10
    np.testing.assert_allclose(rates_of("snapshot", own), expected, rtol=1e-5)
    options = {"data": data(), "sparsity": 0.5, "warmup": 0.5}
    tickets = rates_of("free_tickets", schedule, **options)
    expected = decayed[:10] + [0.5] * 5 + [0.05] * 5
    np.testing.assert_allclose(tickets, expected, rtol=1e-5)
    tickets = rates_of("free_tickets", 0.2, **options)
    expected = [0.2] * 10 + [0.02] * 5 + [0.002] * 5
    np.testing.assert_allclose(tickets, expected, rtol=1e-5)


def test_cycles_without_a_rate_have_the_compiled_one_after_the_warmup(pool):
    rates, model = Rates(), compiled(dense_model(), keras.optimizers.SGD(0.5))
    cycles = LearnerCycles(pool, 1, warmup=0.5, warmup_learning_rate=Cosine(0.2))
    fit(model, cycles, rates, epochs=2)
    expected = [Cosine(0.2)(i / 10) for i in range(10)] + [0.5] * 10
    np.testing.assert_allclose(rates.rates, expected, rtol=1e-5)


def test_the_rate_is_given_back_if_training_stops_early(pool):
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = True

    model = compiled(dense_model(), keras.optimizers.SGD(0.5))
    fit(model, LearnerCycles.snapshot(pool, 2), Stop())
    assert float(model.optimizer.learning_rate) == 0.5


def test_a_run_after_an_exception_has_the_compiled_rate(pool):
    rates, model = Rates(), compiled(dense_model(), keras.optimizers.SGD(0.5))
    with pytest.raises(InterruptedError):
        fit(model, LearnerCycles.snapshot(pool, 1), Interrupt(1), epochs=2)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.25)
    fit(model, LearnerCycles.snapshot(pool, 1), rates, epochs=1)
    assert rates.rates[0] == float(model.optimizer.learning_rate) == 0.5
    with pytest.raises(InterruptedError):
        fit(model, LearnerCycles.snapshot(pool, 1), Interrupt(1), epochs=2)
    model.optimizer.learning_rate = 0.125  # by the user
    fit(model, LearnerCycles.snapshot(pool, 1), rates, epochs=1)
    assert rates.rates[0] == float(model.optimizer.learning_rate) == 0.125


def test_a_model_that_is_saved_after_a_cycle_still_trains(pool):
    saved = Watch(on_epoch=lambda m, e: rates.append(float(m.optimizer.learning_rate)))
    rates = []
    fit(compiled(dense_model()), LearnerCycles.snapshot(pool, 2), saved, epochs=2)
    assert min(rates) > 0


def decaying():
    return keras.optimizers.schedules.CosineDecay(0.1, 10)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.SGD(decaying()),
        lambda: wrapped(decaying()),
    ],
)
def test_rejects_an_optimizer_with_a_schedule(pool, optimizer):
    model = compiled(dense_model(), optimizer())
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"CosineDecay\. Compile with a number"):
        fit(model, LearnerCycles.snapshot(pool, 2))
    for ours, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    cycle = Cycle(initial="parent", mask=samplers.RandomHalves(), quantize=0.5)
    cycles = LearnerCycles(pool, 2, cycle, warmup=0.5)  # sets no learning rate
    fit(model, cycles, WeightPruning(0.5))
    assert len(pool) == 2


def test_rejects_a_compiled_rate_of_zero(pool):
    model = compiled(dense_model(), keras.optimizers.SGD(0.1))
    model.optimizer.learning_rate = 0.0
    with pytest.raises(ValueError, match="positive learning rate"):
        fit(model, LearnerCycles.snapshot(pool, 2))


@pytest.mark.filterwarnings("error:Expected a trained parent")
@pytest.mark.parametrize("sequential", [False, True])
def test_warns_of_a_parent_that_is_not_trained(pool, sequential):
    model = compiled(dense_model())
    with pytest.warns(UserWarning, match="Expected a trained parent"):
        fit(model, LearnerCycles.prune2edge(pool, 1, sequential=sequential), epochs=1)
    # Trained in this process, or loaded and compiled again.
    fit(model, LearnerCycles.prune2edge(pool, 1), epochs=1)
    fit(compiled(layers.clone(model)), LearnerCycles.prune2edge(pool, 1), epochs=1)
    # The warm-up trains it; or the recipe needs none.
    for cycles in (
        LearnerCycles.prune_and_tune(pool, 1, warmup=0.5),
        LearnerCycles.prune2edge(pool, 1, warmup=0.5),
        LearnerCycles.snapshot(pool, 1),
    ):
        fit(compiled(dense_model()), cycles, epochs=2)


@pytest.mark.filterwarnings("error:Expected a trained parent")
def test_biases_tell_a_trained_parent():
    recurrent = keras.Sequential([keras.Input((4, 3)), keras.layers.LSTM(4)])
    recurrent.add(keras.layers.Dense(3))
    assert recurrent.layers[0].cell.bias.shape == (16,)  # zeros and ones
    for model in (dense_model(), norm_model(), recurrent):
        with pytest.warns(UserWarning, match="Expected a trained parent"):
            warn_if_untrained(model)
        vector = [x for x in model.weights if len(x.shape) == 1][-1]
        vector.assign(np.linspace(0.1, 0.2, vector.shape[0]))
        warn_if_untrained(model)
    without = keras.layers.Dense(3, use_bias=False)
    warn_if_untrained(keras.Sequential([keras.Input((4,)), without]))


@pytest.mark.parametrize("use_ema", [False, True])
def test_layers_frozen_after_the_optimizer_was_built(pool, use_ema):
    optimizer = keras.optimizers.Adam(use_ema=use_ema)
    model = compiled(dense_model(), optimizer)
    fit(model, epochs=1)
    model.layers[0].trainable = False
    if not use_ema and BACKEND != "jax":  # Keras cannot train then
        fit(model, LearnerCycles(pool, 2), epochs=2)
    reset_slots(model)
    head = model.layers[1].kernel
    for slot in optimizer.variables:
        value = keras.ops.convert_to_numpy(slot)
        if slot.path.endswith(("_momentum", "_velocity")):
            assert not value.any()
        if slot.path.endswith("head_kernel_average"):
            np.testing.assert_array_equal(value, keras.ops.convert_to_numpy(head))
    assert int(optimizer.iterations) in (10, 30)


@pytest.mark.parametrize("options", [{"warmup": 1.0}, {"warmup": 0.9}])
def test_rejects_a_run_with_too_few_epochs(pool, options):
    with pytest.raises(ValueError, match="Received"):
        fit(compiled(dense_model()), LearnerCycles(pool, 3, **options))


@pytest.mark.parametrize("values", [{"initial": "other"}, {"quantize": 1.0}])
def test_rejects_wrong_values_of_a_cycle(values):
    with pytest.raises(ValueError, match="Received"):
        Cycle(**values)
