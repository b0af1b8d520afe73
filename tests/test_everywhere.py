"""Pruning and quantisation in all ways that Keras trains; run with each backend."""

import os
import subprocess
import sys

import keras
import loops
import model_cases
import numpy as np
import pytest
from backends import BACKEND, n_bytes
from tiny_keras import (
    Watch,
    assert_zeros_where_masked,
    compiled,
    counts,
    data,
    dense_model,
    fit,
    masks,
)

import keras_micronets as kmn
from keras_micronets import layers
from keras_micronets.callbacks import QuantizationAwareTraining, WeightPruning
from keras_micronets.callbacks.mask_updates import prune
from keras_micronets.schedules import PolynomialDecay

# Three quarters of 8 x 16 and of 16 x 3 weights.
TARGET = {"hidden": 96, "head": 36}
RAMP = PolynomialDecay(0.0, 0.75, end=1.0)

without_tensorflow = pytest.mark.skipif(
    BACKEND == "tensorflow", reason="TensorFlow is the backend"
)


def both(scope=None):
    """Return the callbacks under test, and one that checks their results."""
    return [
        WeightPruning(PolynomialDecay(0.0, 0.75), scope=scope),
        QuantizationAwareTraining(start=0.5),
        Watch(on_epoch=lambda model, epoch: assert_zeros_where_masked(model)),
    ]


def assert_pruned(model, history):
    assert counts(model) == TARGET
    assert_zeros_where_masked(model)
    assert history["sparsity"][-1] == 0.75
    assert history["quantized"][-1] == 1.0
    assert np.isfinite(history["loss"]).all()


def adam(**kwargs):
    return keras.optimizers.Adam(0.01, **kwargs)


SETTINGS = {
    "as it comes": {"jit_compile": "auto"},
    "not compiled": {"jit_compile": False},
    "eager": {"run_eagerly": True, "jit_compile": False},
    "accumulation": {"optimizer": lambda: adam(gradient_accumulation_steps=4)},
    "averages": {"optimizer": lambda: adam(use_ema=True, ema_momentum=0.9)},
    "averages that overwrite": {
        "optimizer": lambda: adam(
            use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=7
        )
    },
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.slow
def test_settings_of_compile(setting):
    check_setting(**SETTINGS[setting])


@pytest.mark.skipif(BACKEND == "torch", reason="PyTorch compiles for minutes")
def test_compiled():
    check_setting(jit_compile=True)


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "torch", reason="the test above has no need to be slow")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_compiled_by_pytorch():
    """PyTorch warns about itself and Keras's custom gradients when it compiles."""
    check_setting(jit_compile=True)


def check_setting(optimizer=adam, **kwargs):
    model = compiled(dense_model(), optimizer(), **kwargs)
    before = model.get_layer("hidden").get_weights()[0]
    history = fit(model, *both(), epochs=2).history
    assert_pruned(model, history)
    kernel = layers.kernels(model)[0]
    assert np.all(kernel.weights[kernel.mask] != before[kernel.mask])
    x, _ = data()
    expected = layers.strip(model).predict(x, verbose=0)
    layers.set_quantizers(model, False)
    np.testing.assert_allclose(model.predict(x, verbose=0), expected, atol=1e-6)


@pytest.fixture
def mixed_float16():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy(before)


def test_mixed_float16(mixed_float16):
    model = compiled(dense_model(), adam())
    history = fit(model, *both(), epochs=2).history
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert_pruned(model, history)
    types = {
        training: keras.backend.standardize_dtype(model(x, training=training).dtype)
        for x in [data()[0]]
        for training in (True, False)
    }
    assert types == {True: "float16", False: "float32"}
    plain = layers.strip(model)
    for kernel, layer in zip(layers.kernels(model), plain.layers, strict=True):
        assert kernel.weights.dtype == np.float32
        np.testing.assert_array_equal(layer.get_weights()[0], kernel.weights)
        assert np.any(kernel.weights != kernel.weights.astype("float16"))


def run_of(steps_per_execution, frequency):
    """Return the masks after each hook of two epochs of sixteen batches."""
    seen = []
    model = compiled(dense_model(), steps_per_execution=steps_per_execution)
    fit(
        model,
        WeightPruning(RAMP, frequency=frequency),
        Watch(on_batch=lambda model, step: seen.append(masks(model))),
        **{"epochs": 2, "n": 64, "batch_size": 4, "shuffle": False},
    )
    return seen


def test_masks_equal_those_of_single_steps_if_the_frequency_is_a_multiple():
    one, eight = run_of(1, frequency=8), run_of(8, frequency=8)
    assert (len(one), len(eight)) == (32, 4)
    for expected, found in zip(one[7::8], eight, strict=True):
        for name, mask in found.items():
            np.testing.assert_array_equal(mask, expected[name])


def test_masks_change_at_the_next_hook_otherwise():
    """Due at 10, 16 (an epoch's end), 20, 30 and 32; hooks are at 8, 16, 24, 32."""
    found = [int((~mask["hidden"]).sum()) for mask in run_of(8, frequency=10)]
    assert found == [0, *(round(128 * RAMP(step / 32)) for step in (16, 24, 32))]


@pytest.mark.parametrize("kind", ["nested", "shared", "subclassed"])
def test_models_of_any_kind(kind):
    model = compiled(model_cases.MODELS[kind]())
    callbacks = both(layers.Scope(first=True, last=True, small=True))
    history = model.fit(
        *(model_cases.images(), model_cases.labels()),
        **{"epochs": 2, "batch_size": 8, "verbose": 0, "callbacks": callbacks},
    ).history
    assert history["sparsity"][-1] == pytest.approx(0.75, abs=0.01)
    assert history["quantized"][-1] == 1.0
    copy = layers.clone(model)
    np.testing.assert_allclose(
        model_cases.outputs(copy), model_cases.outputs(model), atol=1e-6
    )
    plain = layers.strip(model)
    for name, mask in masks(copy).items():
        np.testing.assert_array_equal(mask, masks(model)[name])
    assert plain.count_params() < model.count_params()


def check_every(model, steps):
    """Return a function that prunes after each step, up to the target."""

    def after_step(step):
        prune(model, RAMP(step / steps))
        assert counts(model)["hidden"] == round(128 * RAMP(step / steps))
        for kernel in layers.kernels(model):
            effective = keras.ops.convert_to_numpy(
                kernel.layer.effective_kernel(kernel.name)
            )
            assert (effective[~kernel.mask] == 0).all()

    return after_step


def test_train_on_batch():
    model, (x, y) = compiled(dense_model(), adam()), data()
    model.train_on_batch(x, y)
    layers.prepare(model, quantize=True)
    after_step = check_every(model, steps=12)
    losses = []
    for step in range(1, 13):
        losses.append(float(model.train_on_batch(x, y, return_dict=True)["loss"]))
        after_step(step)
        if step == 6:
            layers.set_quantizers(model, True)
    assert counts(model) == TARGET
    assert layers.quantized_share(model) == 1.0
    assert losses[-1] < losses[0]


def test_a_custom_loop():
    model, (x, y) = dense_model(), data()
    layers.prepare(model, quantize=True)
    layers.set_quantizers(model, True)
    before = model.get_layer("hidden").get_weights()[0]
    loops.train(model, x, y, 12, check_every(model, steps=12))
    assert counts(model) == TARGET
    kernel = layers.kernels(model)[0]
    assert np.all(kernel.weights[kernel.mask] != before[kernel.mask])
    quantizer = model.get_layer("hidden").output_quantizer
    assert float(quantizer.upper.value) > 0


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 10

    def __getitem__(self, index):
        x, y = data()
        return x[index * 4 : index * 4 + 4], y[index * 4 : index * 4 + 4]


def generator():
    while True:
        yield from (Batches()[index] for index in range(10))


def tf_data():
    tensorflow = pytest.importorskip("tensorflow")
    return tensorflow.data.Dataset.from_tensor_slices(data()).batch(4)


def torch_data():
    data_tools = pytest.importorskip("torch.utils.data", reason="needs PyTorch")
    return data_tools.DataLoader(
        data_tools.TensorDataset(*map(keras_to_torch, data())), batch_size=4
    )


def keras_to_torch(array):
    import torch

    return torch.as_tensor(array)


DATASETS = {
    "arrays": lambda: {"x": data()[0], "y": data()[1], "batch_size": 4},
    "PyDataset": lambda: {"x": Batches()},
    "generator": lambda: {"x": generator(), "steps_per_epoch": 10},
    "tf.data": lambda: {"x": tf_data()},
    "DataLoader": lambda: {"x": torch_data()},
}


@pytest.mark.parametrize("kind", DATASETS)
@pytest.mark.slow
def test_any_dataset(kind):
    model, seen = compiled(dense_model()), []
    watch = Watch(on_batch=lambda model, step: seen.append(layers.sparsity(model)))
    callbacks = [WeightPruning(RAMP), QuantizationAwareTraining(start=0.5), watch]
    history = model.fit(
        **DATASETS[kind](), epochs=2, shuffle=False, verbose=0, callbacks=callbacks
    ).history
    assert_pruned(model, history)
    expected = [RAMP(step / 20) for step in range(1, 21)]
    np.testing.assert_allclose(seen, expected, atol=1 / 176)


def test_a_mask_takes_one_byte_per_weight():
    model = dense_model()
    before = sum(map(n_bytes, model.variables))
    layers.prepare(model)
    assert sum(map(n_bytes, model.variables)) - before == 128 + 48
    prepared = sum(map(n_bytes, model.variables))
    layers.prepare(model, quantize=True)  # four ranges, six switches
    assert sum(map(n_bytes, model.variables)) - prepared == 4 * 8 + 6
    assert sum(map(n_bytes, layers.strip(model).variables)) == before


NOT_IMPORTED = """
import sys
import keras
import keras_micronets as kmn
from tiny_keras import compiled, data, fit

model = keras.Sequential(
    [
        keras.Input((8,)),
        keras.layers.Dense(16, activation="relu"),
        keras.layers.Dense(3, activation="softmax"),
    ]
)
compiled(model)
callbacks = [
    kmn.callbacks.WeightPruning(kmn.schedules.PolynomialDecay(0.0, 0.75)),
    kmn.callbacks.QuantizationAwareTraining(start=0.5),
]
fit(model, *callbacks, epochs=2)
assert "tensorflow" not in sys.modules
sys.modules["tensorflow"] = None  # Keras looks for it when it writes a config

x, y = data()
pool = kmn.LearnerPool(sys.argv[1])
checkpoint = kmn.callbacks.LearnerCheckpoint(pool)
fit(model, *callbacks, checkpoint, epochs=2)
assert pool.predict(x, verbose=0).shape == (2, 40, 3)
kmn.strip(model).save(sys.argv[1] + "/plain.keras")
keras.saving.load_model(sys.argv[1] + "/plain.keras").predict(x, verbose=0)
kmn.EnsemblePruner(pool, 2, random_state=0).prune(x, y, verbose=0)
"""


def run_python(code, *arguments, backend=BACKEND):
    here = os.path.dirname(__file__)
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": here},
        capture_output=True,
        text=True,
        check=False,
    )


@without_tensorflow
def test_training_needs_no_tensorflow(tmp_path):
    done = run_python(NOT_IMPORTED, tmp_path / "pool")
    assert done.returncode == 0, done.stderr


@without_tensorflow
def test_learners_are_exported_by_a_tensorflow_process(tmp_path):
    pytest.importorskip("tensorflow")
    model, pool = compiled(dense_model()), kmn.LearnerPool(tmp_path / "pool")
    fit(model, *both(), kmn.callbacks.LearnerCheckpoint(pool, start=0.7), epochs=4)
    quantized = pool.quantize(verbose=0)
    assert [learner.name for learner in quantized] == [learner.name for learner in pool]
    assert quantized[0].origin.endswith("int8, ranges learned")
    x = data()[0]
    difference = quantized.predict(x, verbose=0) - pool.predict(x, verbose=0)
    assert np.abs(difference).max() <= 2 / 256


@without_tensorflow
def test_a_tensorflow_process_keeps_the_names_of_inputs(tmp_path):
    pytest.importorskip("tensorflow")
    a, b = (keras.Input((n,), name=name) for n, name in ((3, "b"), (2, "a")))
    model = keras.Model([a, b], keras.layers.Concatenate()([a, b]))
    path = kmn.export_tflite(model, tmp_path / "m.tflite", quantization=None).path
    x = {"b": np.float32([[1, 2, 3]]), "a": np.float32([[4, 5]])}
    member = kmn.edge.Member(path, task="regression")
    assert [*member.input] == ["b", "a"]
    np.testing.assert_array_equal(member.predict(x), [[1, 2, 3, 4, 5]])
