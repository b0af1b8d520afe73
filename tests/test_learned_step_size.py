import keras
import numpy as np
import pytest
from backends import gradients
from keras import ops
from tiny_keras import Watch, compiled, data, dense_model, fit

from keras_micronets import export_tflite, layers
from keras_micronets.callbacks import QuantizationAwareTraining, WeightPruning
from keras_micronets.layers.quantizers.activation import LearnedActivationQuantizer
from keras_micronets.layers.quantizers.kernel import LearnedKernelQuantizer
from keras_micronets.layers.quantizers.learned import round_to_steps
from keras_micronets.layers.quantizers.observers import LearnedStepSize
from keras_micronets.schedules import Constant

X = np.random.default_rng(0).normal(0.3, 2.0, (40, 6)).astype("float32")


def active(cls, **kwargs):
    quantizer = cls(**kwargs)
    quantizer.build((40, 6))
    quantizer.active.assign(True)
    return quantizer


def activation(**kwargs):
    return active(LearnedActivationQuantizer, observer=LearnedStepSize(), **kwargs)


def bounds(quantizer):
    return tuple(float(bound) for bound in quantizer.bounds())


def test_gradients_are_those_of_the_paper():
    values = np.array([-9.0, -2.6, -0.4, 0.0, 0.7, 3.2, 99.0], "float32")
    x, step = keras.Variable(values), keras.Variable(0.5)
    weights = np.arange(1.0, 8.0, dtype="float32")

    def loss():
        rounded = round_to_steps(ops.multiply(x, 1.0), ops.multiply(step, 1.0), -8, 7)
        return ops.sum(ops.multiply(rounded, weights))

    by_x, by_step = gradients(loss, [x, step])
    scaled = values / 0.5
    inside = (scaled > -8) & (scaled < 7)
    expected = np.where(inside, np.rint(scaled) - scaled, np.clip(scaled, -8, 7))
    np.testing.assert_array_equal(by_x, np.where(inside, weights, 0))
    np.testing.assert_allclose(by_step, np.sum(expected * weights), rtol=1e-5)


@pytest.mark.parametrize("rectify", [False, True])
def test_only_the_first_batch_sets_the_range(rectify):
    quantizer = activation()
    quantizer(X, training=True, rectify=rectify)
    first = bounds(quantizer)
    expected = (0.0 if rectify else X.min(), X.max())
    np.testing.assert_allclose(first, expected, atol=(X.max() - X.min()) / 255)
    quantizer(9 * X, training=True, rectify=rectify)
    assert bounds(quantizer) == first


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("rectify", [False, True])
def test_training_and_inference_round_alike(bits, rectify):
    quantizer = activation(bits=bits)
    quantizer(X, training=True, rectify=rectify)
    quantizer.step.assign(-0.3)
    quantizer.offset.assign(0.1)
    training = ops.convert_to_numpy(quantizer(X, training=True, rectify=rectify))
    inference = ops.convert_to_numpy(quantizer(X, rectify=rectify))
    np.testing.assert_allclose(training, inference, atol=1e-5)
    assert 2 < len(np.unique(training.round(4))) <= 2**bits


@pytest.mark.parametrize(("step", "offset"), [(-1.0, 0.3), (1.0, -0.2), (0.3, 5.0)])
def test_zero_is_one_of_the_integers(step, offset):
    quantizer = activation()
    quantizer(X, training=True)
    quantizer.step.assign(step)
    quantizer.offset.assign(offset)
    lower, upper = bounds(quantizer)
    zero_point = -lower / ((upper - lower) / 255)
    assert lower <= 0 <= upper
    assert zero_point == pytest.approx(round(zero_point), abs=1e-3)


def test_a_batch_that_is_not_finite_sets_no_step_size():
    quantizer = activation()
    quantizer(np.full_like(X, np.nan), training=True)
    assert bounds(quantizer) == (0.0, 0.0)
    quantizer(X, training=True)
    assert np.isfinite(bounds(quantizer)).all()


@pytest.mark.parametrize("axis", [None, -1])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_kernels(axis, bits):
    kernel = np.where(np.abs(X) > 1, X, 0)
    quantizer = active(LearnedKernelQuantizer, axis=axis, bits=bits)
    quantizer.initialize_step(ops.convert_to_tensor(kernel))
    quantizer.step.assign(np.full(quantizer.step.shape, 0.1))
    rounded = ops.convert_to_numpy(quantizer(kernel))
    assert np.all(rounded[kernel == 0] == 0)
    assert 0 < np.abs(rounded).max() <= np.abs(kernel).max() * np.exp(0.1) * 1.001
    quantizer.make_constant()
    np.testing.assert_allclose(quantizer(kernel), rounded, atol=1e-5)


OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(0.01),
    "decay": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "momentum": lambda: keras.optimizers.SGD(0.01, momentum=0.9),
    "averages": lambda: keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9),
    "loss scale": lambda: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.Adam(0.01), initial_scale=8.0
    ),
}


def slots(model):
    return {
        slot.path.rpartition("/")[2]: ops.convert_to_numpy(slot)
        for slot in model.optimizer.variables
    }


def steps(model):
    return {
        v.path: ops.convert_to_numpy(v)
        for v in model.trainable_variables
        if v.path.endswith("quantizer/step")
    }


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.slow
def test_a_trained_optimizer_is_extended(name):
    model = compiled(dense_model(), OPTIMIZERS[name]())
    fit(model, epochs=1)
    before, adopted = slots(model), []

    class Look(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            adopted.append(slots(self.model))

    fit(model, QuantizationAwareTraining(observer=LearnedStepSize()), Look(), epochs=2)
    assert before
    assert before.keys() <= adopted[0].keys()
    for slot, value in before.items():
        np.testing.assert_array_equal(adopted[0][slot], value, err_msg=slot)
    assert int(model.optimizer.iterations) == 30
    moved = steps(model)
    assert len(moved) == 5
    assert all(0 < np.abs(value).max() <= 2 for value in moved.values())


def test_steps_move_between_start_and_freezing_only():
    seen = []
    qat = QuantizationAwareTraining(
        0.25, observer=LearnedStepSize(), freeze_observers=0.75
    )
    watch = Watch(on_epoch=lambda model, epoch: seen.append(steps(model)))
    fit(compiled(dense_model()), qat, watch)
    for path, first in seen[0].items():
        values = [float(found[path]) for found in (seen[0], *seen[1:])]
        assert abs(values[0]) < 0.01, first
        assert values[1] != values[0]
        assert values[2] == values[3]


@pytest.mark.slow
def test_with_pruning_zeros_stay_and_copies_are_plain():
    model = compiled(dense_model(activation=None))
    qat = QuantizationAwareTraining(observer=LearnedStepSize(), kernel_bits=4)
    fit(model, WeightPruning(Constant(0.5)), qat, epochs=2)
    for kernel in layers.kernels(model):
        effective = ops.convert_to_numpy(kernel.layer.effective_kernel(kernel.name))
        assert (effective[~kernel.mask] == 0).all()
        assert np.mean(kernel.mask) == pytest.approx(0.5, abs=0.01)
    assert len(layers.strip(model).variables) == 4
    x, _ = data()
    copy = layers.clone(model)
    np.testing.assert_allclose(
        copy.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-5
    )


@pytest.mark.tensorflow
@pytest.mark.parametrize("kernel_bits", [4, 8])
@pytest.mark.slow
def test_files_have_the_learned_steps(kernel_bits, tmp_path):
    model = compiled(dense_model(activation=None))
    qat = QuantizationAwareTraining(observer=LearnedStepSize(), kernel_bits=kernel_bits)
    fit(model, qat, epochs=2)
    report = export_tflite(model, tmp_path / "model.tflite")
    assert report.largest_difference <= 1
    assert not report.float_operations


def test_a_constant_range_is_the_learned_one():
    quantizer = activation()
    quantizer(X, training=True)
    quantizer.step.assign(0.5)
    before = bounds(quantizer)
    quantizer.make_constant()
    assert bounds(quantizer) == before


def test_round_trip():
    quantizer = LearnedActivationQuantizer(observer=LearnedStepSize(), bits=4)
    restored = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(quantizer)
    )
    assert restored.get_config() == quantizer.get_config()
