"""Compact learners: each is cut from the network in its own shape."""

import warnings

import keras
import numpy as np
import pytest
from channel_cases import MODELS, build_model
from tiny_keras import Interrupt

import keras_micronets as kmn
from keras_micronets.callbacks import Cycle, LearnerCycles, masks


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A pool of three compact learners, and the whole model."""
    model = build_model(MODELS["residual"])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    pool = kmn.LearnerPool(tmp_path_factory.mktemp("compact") / "pool")
    sampler = masks.Channels(macs=0.5, noise=1.0, round_to=2, min_channels=2)
    cycle = Cycle(initial="parent", mask=sampler, learning_rate=1e-3, compact=True)
    cycles = LearnerCycles(pool, 3, cycle, warmup=0.25)
    model.fit(*data(), epochs=4, verbose=0, callbacks=[cycles])
    return pool, model


def data(n=64):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, n).astype("int32")
    x = rng.normal(0, 1, (n, 8, 8, 3)).astype("float32")
    return x + y[:, None, None, None] / 2, y


def test_each_learner_is_within_the_budget(trained):
    pool, model = trained
    whole = kmn.channels.count_macs(model)
    for learner in pool:
        assert 0.3 * whole < kmn.channels.count_macs(learner.load()) <= 0.5 * whole


def test_learners_differ_in_their_channels(trained):
    pool, _ = trained
    kernels = [
        learner.load().get_layer("conv2d_1").get_weights()[0] for learner in pool
    ]
    assert not all(kernel.shape == kernels[0].shape for kernel in kernels) or any(
        np.abs(kernel - kernels[0]).max() > 0.1 for kernel in kernels[1:]
    )


def test_learners_are_clustered_and_combined(trained):
    pool, _ = trained
    x, y = data()
    assert pool.predict(x, verbose=0).shape == (3, 64, 4)
    ensemble = kmn.EnsemblePruner(pool, n_members=2, random_state=0)
    ensemble.prune(x, y, verbose=0)
    assert ensemble.predict(x, verbose=0).shape == (64, 4)


@pytest.mark.tensorflow
def test_learners_are_quantized_together(trained, tmp_path):
    pool, _ = trained
    x, _ = data()
    int8 = pool.quantize(x, path=tmp_path / "int8", verbose=0)
    whole, rounded = (one.predict(x, verbose=0) for one in (pool, int8))
    assert np.abs(whole - rounded).mean() < 0.05


def quantised(path, epochs=4, *callbacks):
    """Train two compact learners with quantisers in a pool."""
    model = build_model(MODELS["plain"])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    sampler = masks.Channels(macs=0.5, noise=1.0, round_to=2, min_channels=2)
    cycle = Cycle(initial="parent", mask=sampler, compact=True, quantize=0.25)
    pool = kmn.LearnerPool(path / "pool")
    backup = keras.callbacks.BackupAndRestore(path / "backup")
    cycles = LearnerCycles(pool, 2, cycle)
    options = {"epochs": epochs, "batch_size": 32, "verbose": 0}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Expected a trained parent")
        model.fit(*data(), callbacks=[cycles, backup, *callbacks], **options)
    return pool


@pytest.mark.tensorflow
def test_learners_with_ranges_are_exported_without_data(tmp_path):
    """They equal their files in every integer; the run resumed within a cycle."""
    with pytest.raises(InterruptedError):
        quantised(tmp_path, 4, Interrupt(1))
    pool = quantised(tmp_path)
    assert len(pool) == 2
    x, _ = data()
    for learner in pool:
        model = learner.load()
        assert kmn.layers.quantized_share(model) == 1.0
        kmn.export_tflite(model, tmp_path / "learner.tflite")
        member = kmn.edge.Member(tmp_path / "learner.tflite")
        outputs = keras.ops.convert_to_numpy(model(x, training=False))
        expected = kmn.edge.member.quantize(
            outputs, "int8", *member.output_quantization
        )
        np.testing.assert_array_equal(member.predict_raw(x), expected)


def test_rejects_negative_noise():
    with pytest.raises(ValueError, match="0 or more"):
        masks.Channels(macs=0.5, noise=-1.0)
