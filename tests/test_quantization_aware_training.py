import itertools

import keras
import numpy as np
import pytest
from tiny_keras import (
    Interrupt,
    Watch,
    assert_zeros_where_masked,
    compiled,
    counts,
    data,
    dense_model,
    fit,
    norm_model,
)

from keras_micronets import export_tflite, layers
from keras_micronets.callbacks import QuantizationAwareTraining, WeightPruning
from keras_micronets.layers import ActivationQuantizer
from keras_micronets.layers.quantization import quantizers
from keras_micronets.layers.quantizers.observers import Percentile
from keras_micronets.schedules import PolynomialDecay


def ranges(model):
    """Return the learned ranges, by the path of their quantiser in the model."""
    return {
        quantizer.lower.path.split("/", 1)[1]: tuple(
            float(bound) for bound in quantizer.bounds()
        )
        for quantizer in quantizers(model)
        if isinstance(quantizer, ActivationQuantizer) and not quantizer.fixed_range
    }


class Record(Watch):
    """Record the share of quantisers that are on, and the ranges, after each batch."""

    def __init__(self):
        self.shares, self.ranges = [], []
        super().__init__(on_batch=self.keep)

    def keep(self, model, step):
        self.shares.append(layers.quantized_share(model))
        self.ranges.append(ranges(model))


def test_quantisers_are_off_before_the_start_and_on_after():
    record = Record()
    model = compiled(dense_model())
    history = fit(model, QuantizationAwareTraining(start=0.5), record).history
    # Half of the run ends with an epoch: they are switched when the next one begins.
    assert record.shares == [0.0] * 20 + [1.0] * 20
    assert history["quantized"] == [0.0, 0.0, 1.0, 1.0]
    assert all(type(value) is float for value in history["quantized"])


def test_ranges_change_only_while_quantisers_are_on():
    record = Record()
    fit(compiled(dense_model()), QuantizationAwareTraining(start=0.5), record)
    before, after = record.ranges[:20], record.ranges[20:]
    assert before[0]
    assert all(bounds == (0.0, 0.0) for found in before for bounds in found.values())
    assert all(upper > lower for lower, upper in after[0].values())
    for earlier, later in itertools.pairwise(after):
        assert any(earlier[path] != later[path] for path in earlier)


def test_ranges_do_not_change_outside_of_training():
    model = compiled(dense_model())
    fit(model, QuantizationAwareTraining(), epochs=1)
    before = ranges(model)
    x, y = data()
    model.predict(100 * x, verbose=0)
    model.evaluate(100 * x, y, verbose=0)
    assert ranges(model) == before


def test_the_model_computes_with_rounded_values_after_the_start():
    model = compiled(dense_model(activation=None))
    fit(model, QuantizationAwareTraining(), epochs=1)
    outputs = model.predict(data()[0], verbose=0)
    lower, upper = next(b for p, b in ranges(model).items() if p.startswith("head"))
    steps = outputs / ((upper - lower) / 255)
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)
    assert len(np.unique(outputs)) > 3


@pytest.mark.parametrize("start", [0.0, 0.3])
def test_it_starts_within_an_epoch(start):
    record = Record()
    fit(compiled(dense_model()), QuantizationAwareTraining(start), record, epochs=1)
    off = max(0, round(10 * start) - 1)
    assert record.shares == [0.0] * off + [1.0] * (10 - off)


def test_it_starts_with_several_steps_per_execution():
    record = Record()
    model = compiled(dense_model(), steps_per_execution=4)
    fit(model, QuantizationAwareTraining(start=0.45), record, epochs=2)
    assert record.shares == [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]


def test_quantisers_stay_on_in_a_second_fit():
    model, qat = compiled(dense_model()), QuantizationAwareTraining(start=0.5)
    fit(model, qat, epochs=2)
    learned, record = ranges(model), Record()
    history = fit(model, qat, record, epochs=2).history
    assert history["quantized"] == [1.0, 1.0]
    assert record.shares == [1.0] * 20
    for path, bounds in record.ranges[0].items():
        assert bounds == pytest.approx(learned[path], rel=0.1, abs=0.1)


def test_a_model_that_was_trained_before():
    model = compiled(dense_model())
    fit(model, epochs=1)
    model.predict(data()[0], verbose=0)
    record = Record()
    fit(model, QuantizationAwareTraining(), record, epochs=1)
    assert all(upper > lower for lower, upper in record.ranges[0].values())


@pytest.mark.parametrize("order", [1, -1], ids=["pruning first", "pruning last"])
def test_with_pruning_in_either_order(order):
    both = [
        WeightPruning(PolynomialDecay(0.0, 0.75)),
        QuantizationAwareTraining(start=0.5),
    ]
    watch = Watch(on_epoch=lambda model, epoch: assert_zeros_where_masked(model))
    model = compiled(dense_model())
    history = fit(model, *both[::order], watch).history
    assert counts(model) == {"hidden": 96, "head": 36}
    assert history["sparsity"][-1] == 0.75
    assert history["quantized"] == [0.0, 0.0, 1.0, 1.0]
    for kernel in layers.kernels(model):  # zeros stay zero through the quantiser
        effective = keras.ops.convert_to_numpy(
            kernel.layer.effective_kernel(kernel.name)
        )
        assert (effective[~kernel.mask] == 0).all()


@pytest.mark.parametrize("order", [1, -1], ids=["pruning first", "pruning last"])
@pytest.mark.slow
def test_an_interrupted_run_resumes(tmp_path, order):
    def callbacks(*others):
        ours = [
            WeightPruning(PolynomialDecay(0.0, 0.75)),
            QuantizationAwareTraining(start=0.4),
        ]
        backup = keras.callbacks.BackupAndRestore(
            tmp_path / "backup", delete_checkpoint=False
        )
        return [backup, *ours[::order], *others]

    before = Record()
    with pytest.raises(InterruptedError):
        fit(compiled(dense_model()), *callbacks(before, Interrupt(3)), epochs=5)
    resumed, after = compiled(dense_model(seed=5)), Record()
    history = fit(resumed, *callbacks(after), epochs=5)
    assert history.epoch == [3, 4]
    assert history.history["quantized"] == [1.0, 1.0]
    assert history.history["sparsity"][-1] == 0.75
    # Observers continue: one batch moves them by a hundredth.
    for path, bounds in after.ranges[0].items():
        assert bounds == pytest.approx(before.ranges[-1][path], rel=0.05, abs=0.05)


def test_an_interrupted_run_resumes_before_quantisation(tmp_path):
    def callbacks(*others):
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        return [QuantizationAwareTraining(start=0.75), backup, *others]

    with pytest.raises(InterruptedError):
        fit(compiled(dense_model()), *callbacks(Interrupt(1)))
    history = fit(compiled(dense_model()), *callbacks()).history
    assert history["quantized"] == [0.0, 0.0, 1.0]


def test_observer_and_bits_are_as_requested():
    model = compiled(dense_model())
    qat = QuantizationAwareTraining(
        observer=Percentile(99.0), kernel_bits=4, activation_bits=6
    )
    fit(model, qat, epochs=1)
    hidden = model.get_layer("hidden")
    assert hidden.kernel_quantizer.bits == 4
    assert hidden.output_quantizer.bits == 6
    assert hidden.output_quantizer.observer == Percentile(99.0)
    with pytest.raises(ValueError, match="Expected the scheme"):
        fit(model, QuantizationAwareTraining())


def statistics(model):
    return tuple(keras.ops.convert_to_numpy(model.get_layer("norm").moving_mean))


class RecordBoth(Record):
    """Record the statistics of batch normalisation too."""

    def __init__(self):
        self.statistics = []
        super().__init__()

    def keep(self, model, step):
        super().keep(model, step)
        self.statistics.append(statistics(model))


def changes(values):
    """Return whether each value differs from the previous one."""
    return [earlier != later for earlier, later in itertools.pairwise(values)]


@pytest.mark.slow
def test_ranges_and_statistics_freeze_at_their_fractions():
    record = RecordBoth()
    qat = QuantizationAwareTraining(freeze_observers=0.5, freeze_batch_norm=0.75)
    model = compiled(norm_model())
    fit(model, qat, record, epochs=2)
    assert changes(record.ranges) == [True] * 9 + [False] * 10
    assert changes(record.statistics) == [True] * 14 + [False] * 5
    x, y = data()
    model.evaluate(100 * x, y, verbose=0)
    assert ranges(model) == record.ranges[-1]


@pytest.mark.slow
def test_freezing_with_several_steps_per_execution():
    record = RecordBoth()
    qat = QuantizationAwareTraining(freeze_observers=0.4, freeze_batch_norm=0.4)
    fit(compiled(norm_model(), steps_per_execution=2), qat, record, epochs=2)
    assert changes(record.ranges) == [True] * 3 + [False] * 6
    assert changes(record.statistics) == [True] * 3 + [False] * 6


def test_nothing_is_frozen_after_the_run():
    model = compiled(norm_model())
    fit(model, QuantizationAwareTraining(freeze_observers=0.0, freeze_batch_norm=0.0))
    before = ranges(model), statistics(model)
    fit(model, epochs=1)
    assert ranges(model) != before[0]
    assert statistics(model) != before[1]


def test_weights_train_while_the_rest_is_frozen():
    model = compiled(norm_model())
    fit(model, QuantizationAwareTraining(), epochs=1)
    before = model.get_layer("hidden").get_weights()[0]
    gamma = np.array(keras.ops.convert_to_numpy(model.get_layer("norm").gamma))
    fit(model, QuantizationAwareTraining(freeze_observers=0, freeze_batch_norm=0))
    changed = model.get_layer("hidden").get_weights()[0] != before
    assert np.mean(changed) > 0.5
    after = keras.ops.convert_to_numpy(model.get_layer("norm").gamma)
    assert np.all(after != gamma)


def test_a_resumed_run_is_frozen_from_its_first_batch(tmp_path):
    def callbacks(*others):
        backup = keras.callbacks.BackupAndRestore(
            tmp_path / "backup", delete_checkpoint=False
        )
        qat = QuantizationAwareTraining(freeze_observers=0.5, freeze_batch_norm=0.5)
        return [backup, qat, *others]

    before, after = RecordBoth(), RecordBoth()
    with pytest.raises(InterruptedError):
        fit(compiled(norm_model()), *callbacks(before, Interrupt(3)))
    fit(compiled(norm_model(seed=5)), *callbacks(after))
    assert set(after.statistics) == {before.statistics[-1]}
    assert all(found == before.ranges[-1] for found in after.ranges)


@pytest.mark.parametrize("name", ["freeze_observers", "freeze_batch_norm"])
@pytest.mark.parametrize("moment", [-0.1, 1.1])
def test_rejects_fractions_outside_the_run(name, moment):
    with pytest.raises(ValueError, match=f"Received: {name}={moment}"):
        fit(compiled(dense_model()), QuantizationAwareTraining(**{name: moment}))


def test_rejects_freezing_before_the_start():
    qat = QuantizationAwareTraining(0.5, freeze_observers=0.4)
    with pytest.raises(ValueError, match=r"freeze_observers.* in \[0.5, 1\]"):
        fit(compiled(dense_model()), qat)


@pytest.mark.parametrize("start", [-0.1, 1.0, 60])
def test_rejects_a_start_outside_the_run(start):
    model = compiled(dense_model())
    with pytest.raises(ValueError, match=f"Received: start={start}"):
        fit(model, QuantizationAwareTraining(start=start))
    assert type(model.layers[0]) is keras.layers.Dense  # nothing was prepared


def test_rejects_a_model_without_kernels():
    model = compiled(keras.Sequential([keras.Input((3,)), keras.layers.Softmax()]))
    with pytest.raises(ValueError, match="Expected a model with layers to prune"):
        model.fit(
            *(np.eye(3), np.arange(3)),
            callbacks=[QuantizationAwareTraining()],
            verbose=0,
        )


@pytest.mark.tensorflow
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-12, 1e12])
def test_huge_tiny_and_zero_kernels_become_valid_files(size, tmp_path):
    model = compiled(dense_model(), keras.optimizers.SGD(0.0))
    hidden = model.get_layer("hidden")
    hidden.kernel.assign(size * hidden.kernel)
    hidden.bias.assign(np.linspace(-1, 1, 16))
    fit(model, QuantizationAwareTraining(), epochs=1)
    report = export_tflite(model, tmp_path / "model.tflite")
    assert report.largest_difference <= 1
    assert not report.float_operations


@pytest.mark.tensorflow
@pytest.mark.parametrize("kernel_bits", [2, 4])
def test_kernels_of_few_bits_become_files(kernel_bits, tmp_path):
    model = compiled(dense_model(activation=None))
    qat = QuantizationAwareTraining(kernel_bits=kernel_bits, observer=Percentile(99.9))
    fit(model, qat, epochs=1)
    report = export_tflite(model, tmp_path / "model.tflite")
    assert report.largest_difference <= 1
    assert not report.float_operations
