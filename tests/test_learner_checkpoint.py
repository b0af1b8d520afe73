import json
import warnings

import keras
import numpy as np
import pytest
from tiny_keras import Interrupt, Watch, compiled, data, dense_model, fit

from keras_micronets import LearnerPool, layers
from keras_micronets.callbacks import (
    LearnerCheckpoint,
    QuantizationAwareTraining,
    WeightPruning,
)
from keras_micronets.schedules import Constant, PolynomialDecay


def names(pool):
    return [learner.name for learner in pool]


@pytest.fixture
def pool(tmp_path):
    return LearnerPool(tmp_path / "pool")


def test_learners_have_metadata(pool):
    weights = []
    keep = Watch(on_epoch=lambda model, epoch: weights.append(model.get_weights()))
    history = fit(
        compiled(dense_model()),
        WeightPruning(PolynomialDecay(0.0, 0.75, end=0.75)),
        QuantizationAwareTraining(start=0.5),
        LearnerCheckpoint(pool, every=2, seed=7),
        keep,
        validation_data=data(seed=1),
    ).history
    assert names(pool) == ["run-000-epoch-0002", "run-000-epoch-0004"]
    for learner, epoch in zip(pool, (2, 4), strict=True):
        assert learner.run == "run-000"
        assert learner.epoch == epoch
        assert learner.seed == 7
        assert learner.sparsity == history["sparsity"][epoch - 1]
        assert learner.quantized is (epoch == 4)  # from the third epoch on
        assert learner.from_logits is False
        assert learner.metrics.keys() == history.keys()
        for key, value in learner.metrics.items():
            assert value == pytest.approx(history[key][epoch - 1])
        loaded = learner.load()
        for found, kept in zip(loaded.get_weights(), weights[epoch - 1], strict=True):
            np.testing.assert_array_equal(found, kept)
    assert pool[0].sparsity < pool[1].sparsity == 0.75


@pytest.mark.parametrize(
    ("every", "start", "epochs"),
    [(1, 0.0, [1, 2, 3, 4, 5]), (2, 0.0, [2, 4]), (1, 0.6, [3, 4, 5])],
)
def test_learners_are_added_every_few_epochs(pool, every, start, epochs):
    checkpoint = LearnerCheckpoint(pool, every, start=start)
    fit(compiled(dense_model()), checkpoint, epochs=5)
    assert [learner.epoch for learner in pool] == epochs


@pytest.mark.parametrize(("every", "start"), [(6, 0.0), (4, 0.9)])
def test_warns_when_fit_begins_that_no_learner_will_be_added(pool, every, start):
    checkpoint = LearnerCheckpoint(pool, every, start=start)
    with (
        pytest.warns(UserWarning, match="adds no learner in epochs 1 to 5"),
        pytest.raises(InterruptedError),
    ):
        fit(compiled(dense_model()), checkpoint, Interrupt(1), epochs=5)


def test_warns_of_a_fit_that_begins_after_the_last_learner(pool):
    model, checkpoint = compiled(dense_model()), LearnerCheckpoint(pool, 3)
    fit(model, checkpoint, epochs=4, initial_epoch=2)
    with pytest.warns(UserWarning, match="adds no learner in epochs 4 to 5"):
        fit(model, checkpoint, epochs=5, initial_epoch=3)
    assert [learner.epoch for learner in pool] == [3]


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (np.float32(0.25), 0.25),
        (np.array([0.25, 0.5], "float32"), [0.25, 0.5]),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (keras.ops.array([0.25, 0.5]), [0.25, 0.5]),
        (keras.ops.array([0.25], dtype="bfloat16"), [0.25]),
        (np.bool_(True), True),
        (None, None),
        ("step", "step"),
        ({"a": np.float32(0.5)}, {"a": 0.5}),
        ([0.5, np.nan], [0.5, None]),
        (float("nan"), "left out"),
        (np.float32("inf"), "left out"),
        ({3}, "left out"),
        (lambda: 0, "left out"),
    ],
)
def test_logs_may_hold_what_keras_allows(pool, value, kept):
    class Log(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["extra"] = value

    fit(compiled(dense_model()), Log(), LearnerCheckpoint(pool), epochs=1)
    text = (pool[0].directory / "learner.json").read_text()
    json.loads(text, parse_constant=pytest.fail)  # which NaN would call
    assert pool[0].metrics.get("extra", "left out") == kept
    assert LearnerPool(pool.path)[0].metrics == pool[0].metrics


def test_metrics_that_are_vectors_are_saved_as_lists(pool):
    (x, y), model = data(), dense_model()
    model.compile(
        "adam",
        "categorical_crossentropy",
        metrics=[keras.metrics.F1Score()],
        jit_compile=False,
    )
    history = model.fit(
        x,
        keras.utils.to_categorical(y, 3),
        epochs=2,
        verbose=0,
        callbacks=[LearnerCheckpoint(pool)],
    ).history
    for learner, scores in zip(pool, history["f1_score"], strict=True):
        np.testing.assert_allclose(learner.metrics["f1_score"], scores, rtol=1e-6)


def test_a_second_fit_is_a_new_run(pool):
    checkpoint, model = LearnerCheckpoint(pool), compiled(dense_model())
    fit(model, checkpoint, epochs=2)
    fit(model, checkpoint, epochs=2)
    assert names(pool) == [
        "run-000-epoch-0001",
        "run-000-epoch-0002",
        "run-001-epoch-0001",
        "run-001-epoch-0002",
    ]
    assert checkpoint.run is None


def test_runs_may_be_named(pool):
    fit(compiled(dense_model()), LearnerCheckpoint(pool, run="wide-3"), epochs=1)
    fit(compiled(dense_model()), LearnerCheckpoint(pool), epochs=1)
    assert names(pool) == ["run-000-epoch-0001", "wide-3-epoch-0001"]
    assert pool["wide-3-epoch-0001"].run == "wide-3"


def test_a_fit_from_a_later_epoch_stays_in_its_run(pool):
    model = compiled(dense_model())
    fit(model, LearnerCheckpoint(pool), epochs=2)
    fit(model, LearnerCheckpoint(pool), epochs=3, initial_epoch=2)
    assert [learner.run for learner in pool] == ["run-000"] * 3
    assert [learner.epoch for learner in pool] == [1, 2, 3]


@pytest.mark.slow
def test_a_resumed_run_adds_none_twice(pool, tmp_path):
    fit(compiled(dense_model()), LearnerCheckpoint(pool), epochs=1)  # an older run

    def callbacks(*others):
        backup = keras.callbacks.BackupAndRestore(
            tmp_path / "backup", delete_checkpoint=False
        )
        pruning = WeightPruning(PolynomialDecay(0.0, 0.8, end=1.0))
        return [pruning, LearnerCheckpoint(pool), backup, *others]

    with pytest.raises(InterruptedError):
        fit(compiled(dense_model()), *callbacks(Interrupt(3)), epochs=5)
    before = {learner.name: learner.sha256 for learner in pool}
    # The backup is that of an epoch earlier, as if the process had been killed
    # after the learner was added and before the backup was made.
    metadata = tmp_path / "backup" / "training_metadata.json"
    metadata.write_text(json.dumps({"epoch": 2, "batch": 0}))
    history = fit(compiled(dense_model(seed=5)), *callbacks(), epochs=5)
    assert history.epoch == [2, 3, 4]
    assert names(pool)[1:] == [f"run-001-epoch-{n:04d}" for n in range(1, 6)]
    for name, sha256 in before.items():
        assert pool[name].sha256 == sha256
    sparsities = [learner.sparsity for learner in pool][1:]
    assert sparsities == sorted(sparsities)
    assert sparsities[-1] == layers.sparsity(pool[-1].load())


def test_verbose_prints_each_learner(pool, capsys):
    checkpoint = LearnerCheckpoint(pool, verbose=1)
    fit(compiled(dense_model()), WeightPruning(lambda p: 0.5), checkpoint, epochs=1)
    out = capsys.readouterr().out
    assert "Learner run-000-epoch-0001: sparsity 0.500" in out


def test_a_damaged_learner_is_replaced_by_a_run_that_repeats(pool):
    model = compiled(dense_model())
    fit(model, LearnerCheckpoint(pool), epochs=2)
    pool[0].path.write_bytes(b"nothing")
    with pytest.warns(UserWarning, match="run-000-epoch-0001"):
        again = LearnerPool(pool.path)
    fit(model, LearnerCheckpoint(again, run="run-000"), epochs=3)
    assert names(again) == [f"run-000-epoch-000{epoch}" for epoch in (1, 2, 3)]
    assert again.damaged == []


def test_from_logits_is_given_or_inferred(pool):
    model = compiled(dense_model(activation=None))
    fit(model, LearnerCheckpoint(pool, run="settled"), epochs=1)
    fit(model, LearnerCheckpoint(pool, run="told", from_logits=True), epochs=1)
    assert pool["settled-epoch-0001"].from_logits is None
    assert pool["told-epoch-0001"].from_logits is True


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every": 0}, "Received: 0"),
        ({"every": -2}, "Received: -2"),
        ({"start": 1.0}, "start=1.0"),
        ({"start": -0.5}, "start=-0.5"),
    ],
)
def test_a_bad_argument_is_named(pool, arguments, message):
    with pytest.raises(ValueError, match=message):
        fit(compiled(dense_model()), LearnerCheckpoint(pool, **arguments))
    assert len(pool) == 0


def test_rejects_a_run_that_is_no_file_name(pool):
    with pytest.raises(ValueError, match="Expected a name of letters"):
        fit(compiled(dense_model()), LearnerCheckpoint(pool, run="../run"), epochs=1)
    assert [path.name for path in pool.path.parent.iterdir()] == ["pool"]


class Script(keras.callbacks.Callback):
    """Report given values as the accuracy on validation data."""

    def __init__(self, values):
        super().__init__()
        self.values = values

    def on_epoch_end(self, epoch, logs=None):
        logs["val_accuracy"] = self.values[epoch]


@pytest.mark.parametrize(
    ("callbacks", "best"),
    [
        ([], 2),  # nothing is pruned: all epochs count
        ([WeightPruning(PolynomialDecay(0.0, 0.5))], 5),  # from the third epoch on
        ([WeightPruning(PolynomialDecay(0.0, 0.5, end=1.0))], 6),
        ([QuantizationAwareTraining(start=0.7)], 5),
        ([QuantizationAwareTraining(start=0.9)], 6),
    ],
)
def test_the_best_epoch_at_the_final_sparsity_is_kept(pool, callbacks, best):
    script = Script([0.9, 0.95, 0.6, 0.6, 0.7, 0.65])
    checkpoint = LearnerCheckpoint(pool, keep="best")
    fit(compiled(dense_model()), script, *callbacks, checkpoint, epochs=6)
    assert names(pool) == [f"run-000-epoch-000{best}"]
    assert names(LearnerPool(pool.path)) == names(pool)


def test_the_best_of_several_runs_and_of_a_resumed_run(pool):
    def train(values, first, epochs):
        checkpoint = LearnerCheckpoint(pool, keep="best", monitor="val_accuracy")
        model = compiled(dense_model())
        fit(model, Script(values), checkpoint, epochs=epochs, initial_epoch=first)

    train([0.5, 0.8], 0, 2)
    train([None, None, 0.7, 0.75], 2, 4)  # the run goes on, and finds nothing better
    assert names(pool) == ["run-000-epoch-0002"]
    train([None, None, 0.7, 0.85], 2, 4)
    assert names(pool) == ["run-000-epoch-0004"]
    train([0.1, 0.2], 0, 2)
    assert names(pool) == ["run-000-epoch-0004", "run-001-epoch-0002"]


def test_a_metric_that_is_not_in_the_logs_is_rejected(pool):
    checkpoint = LearnerCheckpoint(pool, keep="best", monitor="val_f1")
    with pytest.raises(ValueError, match="val_f1"):
        fit(compiled(dense_model()), checkpoint, epochs=1)
    with pytest.raises(ValueError, match="'all' or 'best'"):
        fit(compiled(dense_model()), LearnerCheckpoint(pool, keep="last"), epochs=1)


@pytest.mark.parametrize(
    ("other", "warns"),
    [
        (keras.callbacks.EarlyStopping("loss", restore_best_weights=True), True),
        (
            keras.callbacks.EarlyStopping(
                "loss", restore_best_weights=True, start_from_epoch=1
            ),
            False,
        ),
        (keras.callbacks.EarlyStopping("loss"), False),
        (keras.callbacks.ModelCheckpoint("m.keras", "loss", save_best_only=True), True),
        (keras.callbacks.ModelCheckpoint("m.keras", "loss"), False),
    ],
    ids=["restores", "restores late", "stops", "saves the best", "saves all"],
)
@pytest.mark.parametrize(
    "ours",
    [
        lambda: [WeightPruning(PolynomialDecay(0.0, 0.5))],
        lambda: [QuantizationAwareTraining(start=0.5), WeightPruning(Constant(0.5))],
    ],
    ids=["pruning", "quantisation"],
)
def test_callbacks_that_keep_early_epochs_are_named(
    tmp_path, monkeypatch, other, warns, ours
):
    monkeypatch.chdir(tmp_path)
    late = getattr(other, "start_from_epoch", 0)
    if late and "Quant" in str(ours()[0]):  # on from the middle of the run on
        other.start_from_epoch = 2
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(compiled(dense_model()), other, *ours(), epochs=4)
    found = [str(w.message) for w in caught if "may keep an epoch" in str(w.message)]
    assert len(found) == warns
    assert not found or type(other).__name__ in found[0]
