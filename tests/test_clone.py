import subprocess
import sys

import keras
import numpy as np
import pytest
from model_cases import MODELS, images, labels, outputs

from keras_micronets import _keras_private
from keras_micronets.callbacks import WeightPruning
from keras_micronets.layers import (
    Scope,
    clone,
    keeps_state,
    kernels,
    prepare,
    quantized_share,
    set_quantizers,
    strip,
)
from keras_micronets.layers.micro.micro_layer import is_micro_layer
from keras_micronets.schedules import Constant

every_model = pytest.mark.parametrize("kind", MODELS)

LOADS = """
import sys
import keras, numpy as np
folder = sys.argv[1]
x = np.load(f"{folder}/x.npy")
for kind in sys.argv[2:]:
    model = keras.saving.load_model(f"{folder}/{kind}.keras")
    outputs = keras.ops.convert_to_numpy(model(x, training=False))
    np.save(f"{folder}/{kind}.npy", outputs)
print([name for name in sys.modules if name.startswith("keras_micronets")])
"""


def pruned(kind, *, active=False):
    model = MODELS[kind]()
    prepare(model, quantize=True)
    rng = np.random.default_rng(0)
    for kernel in kernels(model):
        kernel.set_mask(rng.random(kernel.mask.shape) > 0.5)
    set_quantizers(model, active)
    model(images(), training=True)  # moves batch statistics and ranges
    return model


@every_model
def test_strip_returns_a_plain_model_with_zeros(kind):
    model = pruned(kind)
    plain = strip(model)
    for layer in _keras_private.flatten_layers(plain):
        assert not is_micro_layer(layer)
        assert not type(layer).__module__.startswith("keras_micronets")
    assert plain.count_params() < model.count_params()
    np.testing.assert_allclose(outputs(plain), outputs(model), atol=1e-6)
    zeros = sum(int(np.sum(np.array(v) == 0)) for v in plain.trainable_variables)
    masked = sum(k.size - int(k.mask.sum()) for k in kernels(model))
    assert zeros >= masked > 0


@every_model
def test_strip_masks_raw_weights(kind):
    model = pruned(kind)
    for kernel in kernels(model):  # as an optimizer with weight decay might
        raw = kernel.variable
        raw.assign_add(np.ones(raw.shape))
    np.testing.assert_allclose(outputs(strip(model)), outputs(model), atol=1e-6)


@every_model
def test_strip_leaves_the_model_unchanged(kind):
    model = pruned(kind, active=True)
    expected = outputs(model)
    strip(model)
    np.testing.assert_array_equal(outputs(model), expected)
    assert quantized_share(model) == 1.0


@every_model
def test_strip_keeps_names_and_trains(kind):
    model = MODELS[kind]()
    names = [layer.name for layer in model.layers if layer.weights]
    prepare(model, quantize=True)
    plain = strip(model)
    assert [layer.name for layer in plain.layers if layer.weights] == names
    assert not plain.compiled
    plain.compile("sgd", "sparse_categorical_crossentropy")
    plain.fit(images(), labels(), verbose=0)


@every_model
def test_strip_takes_a_plain_model(kind):
    model = MODELS[kind]()
    np.testing.assert_array_equal(outputs(strip(model)), outputs(model))


def test_stripped_files_load_without_this_package(tmp_path):
    plain = {k: strip(pruned(k)) for k in MODELS if k != "subclassed"}
    np.save(tmp_path / "x.npy", images())
    for kind, model in plain.items():
        model.save(tmp_path / f"{kind}.keras")
    done = subprocess.run(
        [sys.executable, "-c", LOADS, str(tmp_path), *plain],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
    for kind, model in plain.items():
        loaded = np.load(tmp_path / f"{kind}.npy")
        np.testing.assert_allclose(loaded, outputs(model), atol=1e-6)


def test_stripped_subclassed_model_loads_with_its_class(tmp_path):
    plain = strip(pruned("subclassed"))
    plain.save(tmp_path / "plain.keras")
    loaded = keras.saving.load_model(tmp_path / "plain.keras")
    np.testing.assert_allclose(outputs(loaded), outputs(plain), atol=1e-6)


@pytest.mark.parametrize("active", [False, True])
@every_model
def test_clone_is_equal_and_shares_nothing(kind, active):
    model = pruned(kind, active=active)
    copy = clone(model)
    expected = outputs(model)
    np.testing.assert_array_equal(outputs(copy), expected)
    assert quantized_share(copy) == float(active)
    for old, new in zip(kernels(model), kernels(copy), strict=True):
        np.testing.assert_array_equal(new.weights, old.weights)
        np.testing.assert_array_equal(new.mask, old.mask)
        assert new.layer is not old.layer
        assert new.layer.name == old.layer.name
    for kernel in kernels(copy):
        kernel.set_mask(np.zeros(kernel.mask.shape, bool))
    np.testing.assert_array_equal(outputs(model), expected)
    assert np.abs(outputs(copy) - expected).max() > 0


def test_clones_of_a_subclassed_model_can_be_prepared():
    assert prepare(clone(MODELS["subclassed"]())).prepared == ("conv", "head")


@every_model
def test_clone_takes_a_plain_model(kind):
    model = MODELS[kind]()
    np.testing.assert_array_equal(outputs(clone(model)), outputs(model))


def test_keeps_state():
    assert keeps_state(pruned("residual", active=True))
    assert keeps_state(pruned("subclassed"))
    assert not keeps_state(pruned("subclassed", active=True))


def in_wrappers(outer):
    """A model whose prunable layers are the inner layers of wrappers."""
    return keras.Sequential(
        [
            keras.Input((4, 6)),
            outer(keras.layers.Dense(6, activation="relu"), name="outer"),
            keras.layers.TimeDistributed(keras.layers.Dense(5), name="last"),
        ]
    )


@pytest.mark.parametrize("active", [False, True])
@pytest.mark.parametrize(
    "outer",
    [
        keras.layers.TimeDistributed,
        keras.layers.SpectralNormalization,
        lambda layer, name: keras.layers.TimeDistributed(
            keras.layers.SpectralNormalization(layer), name=name
        ),
    ],
    ids=["TimeDistributed", "SpectralNormalization", "both"],
)
def test_layers_within_wrappers(outer, active, tmp_path):
    model = in_wrappers(outer)
    x = np.random.default_rng(0).normal(size=(3, 4, 6)).astype("float32")
    prepare(model, quantize=active)
    for kernel in kernels(model):
        kernel.set_mask(np.random.default_rng(1).random(kernel.mask.shape) > 0.5)
        kernel.write_zeros()
    before = outputs(model, x)
    plain = strip(model)
    np.testing.assert_array_equal(outputs(plain, x), before)
    for layer in _keras_private.flatten_layers(plain):
        assert "keras_micronets" not in type(layer).__module__
    if active:
        set_quantizers(model, True)
        model(x, training=True)
        before = outputs(model, x)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for copy in (loaded, clone(model)):
        np.testing.assert_array_equal(outputs(copy, x), before)
        for ours, theirs in zip(kernels(copy), kernels(model), strict=True):
            np.testing.assert_array_equal(ours.mask, theirs.mask)


def test_a_spectral_normalisation_is_pruned_in_training(tmp_path):
    """It assigns the kernel of its inner layer in each step."""
    model = in_wrappers(keras.layers.SpectralNormalization)
    model.compile("adam", "mse")
    x = np.random.default_rng(0).normal(size=(8, 4, 6)).astype("float32")
    scope = Scope(first=True, last=True, small=True)
    pruning = WeightPruning(Constant(0.5), scope=scope)
    model.fit(x, x[..., :5], epochs=2, verbose=0, callbacks=[pruning])
    assert [kernel.sparsity for kernel in kernels(model)] == [0.5, 0.5]
    assert not any(k.weights[~k.mask].any() for k in kernels(model))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for copy in (loaded, clone(model), strip(model)):
        np.testing.assert_array_equal(outputs(copy, x), outputs(model, x))
    loaded.fit(x, x[..., :5], verbose=0)  # vector_u and the kernel are variables still
