"""Training that ends in a smaller network of a given size."""

import keras
import numpy as np
import pytest
from channel_cases import MODELS, build_model, conv, head, outputs
from keras import layers, ops
from tiny_keras import Interrupt

import keras_micronets as kmn
from keras_micronets.callbacks import (
    ChannelPruning,
    DynamicSparseTraining,
    QuantizationAwareTraining,
    WeightPruning,
)
from keras_micronets.channels import compact, importance
from keras_micronets.channels.planner import Planner
from keras_micronets.layers import kernels, prepare, quantized_share, sparsity

SIZES = {"round_to": 2, "min_channels": 2}


def normalised(x):
    """Four normalisations by means over channels, one over positions too."""
    x = layers.LayerNormalization(axis=[1, 2, 3])(conv(layers.MaxPooling2D()(x)))
    x = layers.GroupNormalization(2)(conv(x, activation="relu"))
    x = layers.RMSNormalization()(conv(x))
    return head(conv(layers.LayerNormalization()(conv(x))))


STRUCTURES = {**MODELS, "normalised": normalised}


def data(n=64):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, n).astype("int32")
    x = rng.normal(0, 1, (n, 8, 8, 3)).astype("float32")
    return x + y[:, None, None, None] / 2, y


def compiled(structure="plain", **kwargs):
    model = build_model(STRUCTURES[structure])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, **kwargs)
    return model


def fit(model, callback, epochs=5, **kwargs):
    x, y = data()
    return model.fit(
        *(x, y), batch_size=16, epochs=epochs, verbose=0, callbacks=[callback], **kwargs
    )


def pruning(**kwargs):
    options = {"macs": 0.5, "data": data(), "frequency": 1, **SIZES, **kwargs}
    return ChannelPruning(**options)


IMPORTANCE = {
    "default": None,
    "Taylor": importance.Taylor(),
    "scales": importance.NormalizationScale(strength=0.01),
    "magnitude": importance.Magnitude(),
    "random": importance.Random(),
    "own": lambda model, graph, gradients: [
        np.ones(len(group.channels)) for group in graph.groups
    ],
}


@pytest.mark.parametrize("name", IMPORTANCE)
def test_the_run_ends_at_its_budget(name):
    model = compiled()
    before = kmn.channels.count_macs(model)
    callback = pruning(importance=IMPORTANCE[name])
    history = fit(model, callback).history["macs"]
    left = kmn.channels.count_macs(callback.compact_) / before
    assert 0.4 < left <= 0.5
    assert history[-1] == pytest.approx(left)
    assert history == sorted(history, reverse=True)
    assert history[0] > 0.5


@pytest.mark.filterwarnings("ignore:1 layers cannot be pruned")
@pytest.mark.parametrize(
    "kind",
    [
        *("residual", "depthwise", "excited", "nested", "split", "drawn"),
        *("recurrent", "attention", "normalised", "series", "volumes"),
    ],
)
def test_the_small_network_predicts_as_the_masked_one(kind):
    model = compiled(kind)
    callback = pruning(macs=0.6)
    fit(model, callback)
    for ours, theirs in zip(
        outputs(callback.compact_, data()[0]), outputs(model, data()[0]), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    assert compact(model).count_params() == callback.compact_.count_params()
    assert not kernels(callback.compact_)
    assert all(
        type(x).__module__.startswith("keras.") for x in callback.compact_.layers
    )


@pytest.mark.parametrize("listed", ["before", "after"])
def test_the_small_network_has_the_weights_that_were_restored(listed):
    """As after an `EarlyStopping` that restores an earlier epoch when `fit` ends."""

    class Restore(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                self.weights = self.model.get_weights()

        def on_train_end(self, logs=None):
            self.model.set_weights(self.weights)

    model, callback = compiled(), pruning(macs=0.5)
    both = [Restore(), callback] if listed == "before" else [callback, Restore()]
    x, y = data()
    options = {"epochs": 8, "batch_size": 16, "verbose": 0}
    history = model.fit(x, y, callbacks=both, **options).history["macs"]
    with pytest.warns(UserWarning, match=r"leave \{'macs': 0.5\}.*start_from_epoch"):
        small = callback.compact_
    for ours, theirs in zip(outputs(small, x), outputs(model, x), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    before, after = callback.plan_.macs
    assert after / before == pytest.approx(history[1])
    assert history[1] > history[-1]


def test_the_small_network_is_made_after_fit():
    with pytest.raises(AttributeError, match="finished `fit`"):
        pruning(macs=0.5).compact_  # noqa: B018


def test_two_budgets_are_met():
    model = compiled()
    callback = pruning(params=0.4, macs=0.4)
    history = fit(model, callback).history
    assert callback.compact_.count_params() <= 0.4 * callback.plan_.params[0]
    assert history["params"][-1] <= 0.4
    assert history["macs"][-1] <= 0.4


def test_channels_come_back():
    """An importance that is reversed in the middle of the run restores channels."""

    class Turning:
        needs_gradients = False
        calls = 0

        def __call__(self, model, graph, gradients):
            self.calls += 1
            slope = 1.0 if self.calls < 10 else -1.0
            ranks = (np.linspace(1, 2, len(g.channels)) for g in graph.groups)
            return [own**slope for own in ranks]

    model = compiled()
    reader = model.get_layer("conv2d_1")
    raw = ops.convert_to_numpy(reader.kernel)
    plans = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            plans.append(callback.plan_)

    callback = pruning(importance=Turning(), decay=0.0, end=0.9)
    x, y = data()
    model.compile(
        keras.optimizers.SGD(0.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(x, y, batch_size=16, epochs=5, verbose=0, callbacks=[callback, Watch()])
    kept = [set(plan.kept["conv2d"]) for plan in plans]
    assert 0 not in kept[7]
    assert 0 in kept[-1]
    found = ops.convert_to_numpy(reader.kernel)
    stays = sorted(kept[-1])  # unchanged
    np.testing.assert_array_equal(found[:, :, stays], raw[:, :, stays])
    assert np.all(found[:, :, sorted(set(range(16)) - kept[-1])] == 0)


def test_the_selection_is_final_from_the_end():
    plans = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            plans.append(callback.plan_)

    model, callback = compiled(), pruning(end=0.5)
    x, y = data()
    model.fit(x, y, batch_size=16, epochs=5, verbose=0, callbacks=[callback, Watch()])
    assert all(plan is plans[-1] for plan in plans[9:])
    assert plans[2] is not plans[-1]


def test_a_second_fit_starts_with_the_masked_channels():
    model = compiled()
    fit(model, pruning(macs=0.6))
    callback = pruning(macs=0.4)
    history = fit(model, callback).history["macs"]
    assert history[-1] <= 0.4


@pytest.mark.tensorflow
@pytest.mark.parametrize("kind", ["plain", "split"])
def test_the_small_network_has_the_observed_ranges(kind, tmp_path):
    """It is exported without calibration data, and equals its file in every integer.

    Operations become micro layers after the channels were read.
    """
    model = compiled(kind)
    callback = pruning()
    x, y = data()
    both = [callback, QuantizationAwareTraining(start=0.5)]
    model.fit(x, y, batch_size=16, epochs=4, verbose=0, callbacks=both)
    small = callback.compact_
    assert quantized_share(small) == 1.0
    assert kmn.channels.count_macs(small) <= 0.5 * callback.plan_.macs[0]
    kmn.export_tflite(small, tmp_path / "small.tflite")
    member = kmn.edge.Member(tmp_path / "small.tflite")
    expected = kmn.edge.member.quantize(
        outputs(small, x)[0], "int8", *member.output_quantization
    )
    np.testing.assert_array_equal(member.predict_raw(x), expected)
    assert np.ptp(expected.astype(int)) > 50
    small.fit(x, y, verbose=0, callbacks=[QuantizationAwareTraining()])
    assert np.isfinite(outputs(small, x)[0]).all()


def test_weights_that_were_removed_stay_removed():
    """Before: half of the weights. Within the kept channels they are the same half."""
    model, x = compiled(), data()[0]
    prepare(model)
    first, second, _ = kernels(model)
    rng = np.random.default_rng(3)
    for kernel in (first, second):
        kernel.set_mask(rng.random(kernel.mask.shape) < 0.5)
    before = second.mask
    callback = pruning()
    fit(model, callback)
    kept = callback.plan_.kept["conv2d"]
    small = callback.compact_
    outs = callback.plan_.kept["conv2d_1"]
    np.testing.assert_array_equal(
        kernels(small)[1].mask, before[:, :, list(kept)][..., list(outs)]
    )
    np.testing.assert_allclose(
        outputs(small, x)[0], outputs(model, x)[0], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("other", ["WeightPruning", "DynamicSparseTraining"])
def test_weights_and_channels_are_pruned_in_one_run(other):
    x, y = data()
    scope = kmn.layers.Scope(small=True)
    weights = {
        "WeightPruning": WeightPruning(0.6, scope=scope, frequency=2),
        "DynamicSparseTraining": DynamicSparseTraining(
            0.6, scope=scope, data=(x, y), frequency=3, end=1.0
        ),
    }[other]
    model, callback = compiled(), pruning(end=0.5)
    model.fit(x, y, batch_size=16, epochs=4, verbose=0, callbacks=[weights, callback])
    small = callback.compact_
    assert kmn.channels.count_macs(small) <= 0.5 * callback.plan_.macs[0]
    assert 0.1 < sparsity(small) < sparsity(model)
    np.testing.assert_allclose(
        outputs(small, x)[0], outputs(model, x)[0], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"macs": None}, "shares that may be kept"),
        ({"macs": 2.0}, "shares that may be kept"),
        ({"macs": 0.001}, "lower `min_channels`"),
        (
            {"data": None, "importance": importance.Taylor()},
            "on which the importance",
        ),
        ({"start": 0.7}, "`start` < `end`"),
        ({"end": 1.5}, "`start` < `end`"),
        ({"decay": 1.0}, "`decay`"),
        ({"frequency": 0}, "`frequency`"),
    ],
)
def test_invalid_arguments_are_rejected(options, message):
    model = compiled()
    with pytest.raises(ValueError, match=message):
        fit(model, pruning(**options))
    outputs(model, data()[0])


def test_channels_that_cannot_be_masked_are_kept():
    """`prepare` alone gives normalisations no masks of channels."""
    model = compiled("normalised")
    prepare(model)
    reasons = {g.name: g.reason for g in Planner(model, masked=True).graph.groups}
    assert reasons["conv2d_2"] == (
        "rms_normalization takes a mean or maximum over them"
    )
    assert reasons["conv2d_4"] is None


def test_an_interrupted_run_continues_its_average(tmp_path):
    """The importance is reversed when the run resumes, but the past outweighs it."""

    def run(slope, *callbacks):
        model = compiled()
        callback = pruning(
            importance=lambda model, graph, gradients: [
                np.linspace(1, 2, len(group.channels)) ** slope
                for group in graph.groups
            ],
            decay=0.99,
            end=0.9,
        )
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        x, y = data()
        callbacks = [callback, backup, *callbacks]
        model.fit(x, y, batch_size=16, epochs=3, verbose=0, callbacks=callbacks)
        return callback.plan_

    with pytest.raises(InterruptedError):
        run(1.0, Interrupt(2))
    kept = run(-1.0).kept["conv2d"]
    assert 0 < len(kept) < 16
    assert kept == tuple(range(16 - len(kept), 16))


def test_an_interrupted_run_ends_at_its_budget(tmp_path):
    def run(*callbacks):
        model, callback = compiled(), pruning(end=0.5)
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        x, y = data()
        callbacks = [callback, backup, *callbacks]
        options = {"batch_size": 16, "epochs": 6, "verbose": 0}
        return callback, model.fit(x, y, callbacks=callbacks, **options).history

    with pytest.raises(InterruptedError):
        run(Interrupt(4))  # after the selection is final
    callback, history = run()
    assert len(history["macs"]) == 2
    assert max(history["macs"]) <= 0.5  # the masks were restored with the model
    whole = kmn.channels.count_macs(build_model(MODELS["plain"]))
    assert kmn.channels.count_macs(callback.compact_) <= 0.5 * whole
