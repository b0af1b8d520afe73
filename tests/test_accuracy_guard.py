import keras
import numpy as np
import pytest
from tiny_keras import (
    Watch,
    assert_zeros_where_masked,
    compiled,
    dense_model,
    fit,
    masks,
)

from keras_micronets.callbacks import AccuracyGuard, WeightPruning
from keras_micronets.layers import kernels
from keras_micronets.schedules import PolynomialDecay

RAMP = PolynomialDecay(0.0, 0.72, end=1.0, power=1.0)  # 0.12 an epoch in six epochs
ACCURACIES = [0.5, 0.9, 0.7, 0.88, 0.9, 0.9]
LEVELS = [0.12, 0.24, 0.24, 0.24, 0.30, 0.42]


class Script(keras.callbacks.Callback):
    """Report given values of a metric."""

    def __init__(self, name, values):
        super().__init__()
        self.metric, self.values = name, values

    def on_epoch_end(self, epoch, logs=None):
        logs[self.metric] = self.values[epoch]


def run(values, guard, *others, name="val_accuracy", **kwargs):
    model = compiled(dense_model())
    pruning = WeightPruning(RAMP, guard=guard)
    script = Script(name, values)
    history = fit(model, script, pruning, *others, epochs=6, **kwargs).history
    return model, history


@pytest.mark.parametrize(
    ("name", "values"),
    [("val_accuracy", ACCURACIES), ("val_loss", [1 - x for x in ACCURACIES])],
)
def test_sparsity_steps_back_and_grows_again_in_smaller_steps(name, values):
    """Epoch 3 is worse than 0.9 - 0.05: back from 0.36 to 0.24. Epoch 4 has recovered:
    half the step, 0.06, and twice as much in each epoch after it."""
    guard = AccuracyGuard(0.05, monitor=name)
    model, history = run(values, guard, name=name)
    assert history["guard"] == pytest.approx(LEVELS)
    assert history["scope_sparsity"] == pytest.approx(LEVELS, abs=0.01)
    assert history["sparsity"] == history["scope_sparsity"]  # a net of two layers
    assert_zeros_where_masked(model)


def test_masks_and_weights_of_the_last_good_epoch_return():
    seen, weights = [], []

    def look(model, epoch):
        seen.append(masks(model))
        weights.append({k.path: k.weights for k in kernels(model)})

    before = Watch(on_batch=lambda model, step: removed.append(masks(model)))
    removed = []
    run(ACCURACIES, AccuracyGuard(0.05), before, Watch(on_epoch=look))
    for path in seen[1]:
        np.testing.assert_array_equal(seen[2][path], seen[1][path])
        came_back = (
            seen[1][path] & ~removed[29][path]
        )  # after the last batch of epoch 3
        assert came_back.any()
        np.testing.assert_array_equal(
            weights[2][path][came_back], weights[1][path][came_back]
        )


def test_within_the_tolerance_the_schedule_is_followed():
    _, history = run([0.9, 0.86, 0.87, 0.9, 0.88, 0.9], AccuracyGuard(0.05))
    assert history["guard"] == pytest.approx([0.12, 0.24, 0.36, 0.48, 0.6, 0.72])


def test_it_holds_while_the_metric_stays_low():
    _, history = run([0.9, 0.9, 0.1, 0.1, 0.1, 0.1], AccuracyGuard(0.05))
    assert history["guard"] == pytest.approx([0.12, 0.24] + 4 * [0.24])


@pytest.mark.parametrize("with_path", [True, False])
def test_a_resumed_run_knows_the_best_value_from_its_file(tmp_path, with_path):
    path = tmp_path / "guard.json" if with_path else None
    model = compiled(dense_model())

    def train(values, first, last):
        pruning = WeightPruning(RAMP, guard=AccuracyGuard(0.05, path=path))
        script = Script("val_accuracy", values)
        return fit(model, script, pruning, epochs=last, initial_epoch=first).history

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 1

    pruning = WeightPruning(RAMP, guard=AccuracyGuard(0.05, path=path))
    script = Script("val_accuracy", ACCURACIES)
    fit(model, script, pruning, Stop(), epochs=6)
    history = train([None, None, 0.7, 0.7, 0.7, 0.7], 2, 6)
    # 0.7 is bad compared with 0.9; without the file it is the best so far, at the
    # sparsity of the epoch that was interrupted, and the schedule goes on.
    expected = 4 * [0.24] if with_path else [0.24, 0.48, 0.6, 0.72]
    assert history["guard"] == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AccuracyGuard(-0.1), "tolerance"),
        (lambda: AccuracyGuard(mode="best"), "mode='best'"),
        (lambda: run(ACCURACIES, AccuracyGuard(monitor="val_f1")), "'val_f1'"),
    ],
)
def test_bad_arguments_are_rejected(make, message):
    with pytest.raises(ValueError, match=message):
        make()
