import json
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from model_cases import outputs
from tiny_keras import (
    Subclassed,
    assert_zeros_where_masked,
    compiled,
    data,
    dense_model,
    fit,
)
from tiny_tflite import samples, tiny_tflite

from keras_micronets import LearnerPool, layers
from keras_micronets.callbacks.mask_updates import prune
from keras_micronets.learners import pool as pool_module
from keras_micronets.learners import storage
from keras_micronets.selection.validation import check_probabilities

X, Y = data(64)


def names(pool):
    return [learner.name for learner in pool]


def everything(path):
    """Return every file under a folder with its content."""
    return {
        file.relative_to(path): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


def sparse_model(seed=0, sparsity=0.5, **kwargs):
    model = dense_model(seed, **kwargs)
    layers.prepare(model)
    prune(model, sparsity)
    return model


def quantized_model(seed=0, **kwargs):
    """Return a model with active quantisers that have learned their ranges."""
    model = dense_model(seed, **kwargs)
    layers.prepare(model, quantize=True)
    prune(model, 0.5)
    layers.set_quantizers(model, True)
    model(X, training=True)
    return model


@pytest.fixture
def pool(tmp_path):
    return LearnerPool(tmp_path / "pool")


@pytest.fixture
def tflite_file(tmp_path):
    path = tmp_path / "tiny.tflite"
    path.write_bytes(tiny_tflite())
    return path


def test_a_learner_is_restored(pool):
    model = quantized_model()
    added = pool.add(
        model, run="r", epoch=3, seed=1, metrics={"acc": 0.5}, origin="by hand"
    )
    for learner in (added, pool[0], pool["learner-0000"], LearnerPool(pool.path)[0]):
        assert learner == added
    assert (added.run, added.epoch, added.seed) == ("r", 3, 1)
    assert (added.metrics, added.origin) == ({"acc": 0.5}, "by hand")
    assert (added.n_classes, added.from_logits) == (3, False)
    assert (added.sparsity, added.quantized) == (0.5, True)
    assert added.n_bytes == added.path.stat().st_size
    loaded = added.load()
    np.testing.assert_array_equal(
        loaded.predict(X, verbose=0), model.predict(X, verbose=0)
    )
    assert_zeros_where_masked(loaded)
    for restored, value in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(restored, value)


def test_a_plain_model_is_described(pool):
    learner = pool.add(dense_model())
    assert (learner.sparsity, learner.quantized) == (0.0, False)
    assert (learner.run, learner.epoch, learner.seed) == (None, None, None)
    assert (learner.metrics, learner.origin) == ({}, "sparsity 0.000")
    assert pool.add(quantized_model()).origin == "sparsity 0.500, quantisation-aware"


def test_the_model_stays_unchanged(pool):
    model = compiled(dense_model())
    fit(model, epochs=1)
    variables, optimizer = model.variables, model.optimizer
    pool.add(model)
    assert model.optimizer is optimizer
    assert model.compiled
    for before, after in zip(variables, model.variables, strict=True):
        assert before is after
    assert type(model.layers[0]) is keras.layers.Dense


def test_the_optimizer_is_not_stored(pool):
    model = compiled(dense_model())
    fit(model, epochs=1)
    with zipfile.ZipFile(pool.add(model).path) as archive:
        archive.extract("model.weights.h5", pool.path)
        config = json.loads(archive.read("config.json"))
    restored = []
    with h5py.File(pool.path / "model.weights.h5") as weights:
        weights.visit(restored.append)
    assert "layers/dense/vars/0" in restored
    assert not any("optimizer" in name for name in restored)
    assert not config.get("compile_config")


def test_a_model_with_a_custom_loss_is_a_learner(pool):
    """The loss, which Keras could not read back, is not stored."""
    model = compiled(dense_model(), loss=lambda y, p: keras.ops.mean(p, axis=-1))
    loaded = pool.add(model).load()
    assert not loaded.compiled
    assert model.compiled
    np.testing.assert_array_equal(
        loaded.predict(X, verbose=0), model.predict(X, verbose=0)
    )


def test_a_pool_is_a_sequence_with_a_repr(pool):
    for seed in range(3):
        pool.add(dense_model(seed), name=f"net-{seed}")
    assert len(pool) == 3
    assert names(pool) == ["net-0", "net-1", "net-2"]
    assert "net-1" in pool
    assert "net-3" not in pool
    assert pool[-1].name == "net-2"
    assert repr(pool) == f"LearnerPool('{pool.path}'): 3 learners"
    with pytest.raises(KeyError, match="net-3"):
        pool["net-3"]


def test_names_are_numbers_unless_given(pool):
    pool.add(dense_model())
    pool.add(dense_model(), name="learner-0002")
    pool.add(dense_model())
    pool.add(dense_model())
    assert names(pool) == [f"learner-{n:04d}" for n in (0, 2, 3, 4)]


def test_a_name_is_taken_once(pool):
    pool.add(dense_model(), name="one")
    before = everything(pool.path)
    with pytest.raises(ValueError, match=r"not taken yet. Received: name='one'"):
        pool.add(dense_model(seed=1), name="one")
    assert everything(pool.path) == before


INVALID = ["../out", "a/b", ".hidden", "..", "", "a\0b", "a\\b", "a.", "a ", "con.x"]
INVALID += ["COM1", "a" * 256, "\u00e4" * 128]


@pytest.mark.parametrize("name", INVALID)
def test_invalid_names(pool, name):
    before = everything(pool.path.parent)
    assert name not in pool
    with pytest.raises(ValueError, match="Expected a name"):
        pool.add(dense_model(), name=name)
    assert everything(pool.path.parent) == before


@pytest.mark.parametrize("name", ["a" * 255, "console", "a b", "1.2", "\u00e4"])
def test_valid_names(pool, name, tflite_file):
    pool.add_tflite(tflite_file, name=name)
    assert name in pool
    assert names(LearnerPool(pool.path)) == [name]


def test_numbers_in_names_are_ordered_by_value(pool, tflite_file):
    for name in ("run-1000", "run-999", "run-1000-b", "run", "run-0999"):
        pool.add_tflite(tflite_file, name=name)
    expected = ["run", "run-0999", "run-999", "run-1000", "run-1000-b"]
    assert names(pool) == names(LearnerPool(pool.path)) == expected


def test_paths_may_begin_with_the_home_folder(tmp_path, monkeypatch, tflite_file):
    monkeypatch.setenv("HOME", str(tmp_path))
    pool = LearnerPool("~/pool")
    pool.add_tflite("~/tiny.tflite", name="tiny")
    assert pool.path == tmp_path / "pool"
    assert names(LearnerPool(tmp_path / "pool")) == ["tiny"]


def test_runs_are_numbered(pool):
    assert (pool.next_run(), pool.last_run()) == ("run-000", "run-000")
    for run in ("run-000", "run-002", "mine", None, "run-1000", "run-999"):
        pool.add(dense_model(), run=run)
    assert (pool.next_run(), pool.last_run()) == ("run-1001", "run-1000")


def two_outputs():
    x = keras.Input((8,))
    return keras.Model(x, [keras.layers.Dense(3)(x), keras.layers.Dense(3)(x)])


def named_outputs():
    x = keras.Input((8,))
    heads = {"a": keras.layers.Dense(3)(x), "b": keras.layers.Dense(3)(x)}
    return keras.Model(x, heads)


def images_out():
    return keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(3, 3)])


@pytest.mark.parametrize("make", [two_outputs, named_outputs, images_out])
def test_models_that_are_no_classifiers_are_rejected(pool, make):
    before = everything(pool.path)
    with pytest.raises(ValueError, match="Expected a classifier: one output"):
        pool.add(make())
    assert everything(pool.path) == before
    assert len(pool) == 0


def test_a_model_that_is_not_built_is_rejected(pool):
    with pytest.raises(ValueError, match="built"):
        pool.add(keras.Sequential([keras.layers.Dense(3)]))
    assert len(pool) == 0


def test_a_subclassed_model_is_a_learner(pool):
    model = Subclassed()
    expected = outputs(model, X)
    learner = pool.add(model)
    assert learner.n_classes == 3
    np.testing.assert_allclose(outputs(learner.load(), X), expected, atol=1e-6)
    np.testing.assert_allclose(pool.predict(X, verbose=0)[0], expected, atol=1e-6)


def test_a_subclassed_model_with_quantizers_is_rejected(pool):
    model = Subclassed()
    model(X)
    layers.prepare(model, quantize=True)
    layers.set_quantizers(model, True)
    with pytest.raises(ValueError, match="Expected a sequential or functional model"):
        pool.add(model)
    assert len(pool) == 0


def test_metrics_may_be_numpy_numbers(pool):
    metrics = {"acc": np.float32(0.5), "n": np.int64(3)}
    learner = pool.add(dense_model(), metrics=metrics, epoch=np.int64(2))
    stored = json.loads((learner.directory / "learner.json").read_text())
    assert stored["metrics"] == {"acc": 0.5, "n": 3}
    assert stored["epoch"] == 2


# --- The folder.


@pytest.mark.parametrize("content", ["a file", "a folder", "half a marker", "newer"])
def test_a_path_that_is_no_pool_stays_unchanged(tmp_path, content):
    path = tmp_path / "taken"
    if content == "a file":
        path.write_text("mine")
    else:
        path.mkdir()
        (path / "notes.txt").write_text("mine")
    if content == "half a marker":
        (path / "pool.json").write_text('{"format": "keras')
    if content == "newer":
        (path / "pool.json").write_text(
            '{"format": "keras_micronets learner pool", "version": 2}'
        )
    before = everything(tmp_path)
    with pytest.raises(ValueError, match=r"Expected .* another path"):
        LearnerPool(path)
    assert everything(tmp_path) == before
    assert not (path / "learners").exists()


def test_an_empty_folder_becomes_a_pool(tmp_path):
    (tmp_path / ".hidden").write_text("kept")
    pool = LearnerPool(tmp_path)
    assert len(pool) == 0
    assert (tmp_path / ".hidden").read_text() == "kept"


def test_a_partly_made_pool_is_completed(tmp_path):
    (tmp_path / "pool" / "learners").mkdir(parents=True)
    (tmp_path / "pool" / ".partial-1-abc").write_text("{")
    assert len(LearnerPool(tmp_path / "pool")) == 0
    assert (tmp_path / "pool" / "pool.json").is_file()


def test_another_process_made_the_pool_in_the_meantime(tmp_path, monkeypatch):
    """Its marker appears after this process has looked for it."""
    path = tmp_path / "pool"
    LearnerPool(path).add(dense_model())
    looked, is_file = [], Path.is_file

    def late(self):
        if self.name == "pool.json" and not looked:
            looked.append(self)
            return False
        return is_file(self)

    monkeypatch.setattr(Path, "is_file", late)
    assert len(LearnerPool(path)) == 1
    assert looked


def flip_a_byte(learner):
    content = bytearray(learner.path.read_bytes())
    content[len(content) // 2] ^= 1
    learner.path.write_bytes(content)


def truncate(learner):
    learner.path.write_bytes(learner.path.read_bytes()[:-1])


def delete_model(learner):
    learner.path.unlink()


def delete_metadata(learner):
    (learner.directory / "learner.json").unlink()


def truncate_metadata(learner):
    path = learner.directory / "learner.json"
    path.write_text(path.read_text()[:40])


def rename_field(learner):
    path = learner.directory / "learner.json"
    path.write_text(path.read_text().replace('"n_classes"', '"n_klasses"'))


def list_metadata(learner):
    (learner.directory / "learner.json").write_text("[1, 2]")


def copy_of_another(learner):
    shutil.rmtree(learner.directory)
    shutil.copytree(learner.directory.with_name("c"), learner.directory)


def a_file(learner):
    shutil.rmtree(learner.directory)
    learner.directory.write_text("not a folder")


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_byte,
        truncate,
        delete_model,
        delete_metadata,
        truncate_metadata,
        rename_field,
        list_metadata,
        copy_of_another,
        a_file,
    ],
)
def test_a_damaged_learner_is_named_and_skipped(pool, damage):
    for seed, name in enumerate("abc"):
        pool.add(dense_model(seed), name=name)
    damage(pool["b"])
    with pytest.warns(
        UserWarning, match="Learner 'b' of pool .* is left out"
    ) as caught:
        again = LearnerPool(pool.path)
    assert len(caught) == 1
    assert again.damaged == ["b"]
    assert names(again) == ["a", "c"]
    assert again.predict(X, verbose=0).shape == (2, 64, 3)
    again.add(dense_model(3), name="d")  # and there is no second warning
    again.refresh()
    assert names(again) == ["a", "c", "d"]
    assert "b" not in again
    with pytest.raises(KeyError, match="b"):
        again["b"]
    replaced = again.add(dense_model(4), name="b")
    assert again.damaged == []
    assert again["b"] == replaced
    assert names(again) == names(LearnerPool(pool.path)) == ["a", "b", "c", "d"]
    assert not list(pool.path.glob("learners/.*"))


def test_a_damaged_learner_is_forgotten_when_its_folder_is_removed(pool):
    pool.add(dense_model(), name="b")
    truncate(pool["b"])
    with pytest.warns(UserWarning, match="Learner 'b'"):
        pool.refresh()
    assert (len(pool), pool.damaged) == (0, ["b"])
    shutil.rmtree(pool.path / "learners" / "b")
    pool.refresh()
    assert pool.damaged == []


def test_nothing_is_left_of_an_addition_that_fails(pool, monkeypatch):
    pool.add(dense_model())
    before = everything(pool.path)

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.write_text", fail)
    with pytest.raises(OSError, match="disk full"):
        pool.add(dense_model())
    monkeypatch.undo()
    assert everything(pool.path) == before
    assert len(LearnerPool(pool.path)) == 1


def test_other_errors_are_not_taken_for_a_taken_name(pool, monkeypatch):
    def fail(*args):
        raise OSError("no permission")

    monkeypatch.setattr("pathlib.Path.rename", fail)
    with pytest.raises(OSError, match="no permission"):
        pool.add(dense_model(), name="one")


def test_leftovers_of_killed_processes_are_removed(pool):
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    with storage.partial_directory(pool.path / "learners") as at_work:
        abandoned = at_work.with_name(f".partial-{done.pid}-0")
        abandoned.mkdir()
        (abandoned / "model.keras").write_text("half")
        again = LearnerPool(pool.path)
        assert at_work.is_dir()
        assert not abandoned.exists()
        assert len(again) == 0
    assert not at_work.exists()


def test_refresh_reads_learners_of_other_processes(pool):
    other = LearnerPool(pool.path)
    other.add(dense_model())
    assert len(pool) == 0
    pool.refresh()
    assert len(pool) == 1


def test_several_threads_add_at_the_same_time(pool, tflite_file):
    pools = [pool, *(LearnerPool(pool.path) for _ in range(3))]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda i: pools[i % 4].add_tflite(tflite_file), range(40)))
    assert names(LearnerPool(pool.path)) == [f"learner-{n:04d}" for n in range(40)]
    assert not list(pool.path.glob("learners/.*"))


@pytest.mark.slow
def test_two_processes_make_and_fill_a_pool_at_the_same_time(tmp_path):
    script = """
import pathlib
import sys
import time
import keras
import numpy as np
from keras_micronets import LearnerPool

root, me, other = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
(root / me).touch()
while not (root / other).exists():
    time.sleep(0.001)
pool = LearnerPool(root / "pool")
for epoch in range(8):
    pool.add(model, run=me, epoch=epoch)
"""
    starts = [("a", "b"), ("b", "a")]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path), *who], stderr=subprocess.PIPE
        )
        for who in starts
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()[-2000:]
    pool = LearnerPool(tmp_path / "pool")
    assert pool.damaged == []
    assert names(pool) == [f"learner-{n:04d}" for n in range(16)]
    added = sorted((learner.run, learner.epoch) for learner in pool)
    assert added == [(run, epoch) for run in "ab" for epoch in range(8)]
    assert not list((tmp_path / "pool" / "learners").glob(".*"))
    assert pool.predict(X, verbose=0).shape == (16, 64, 3)


# --- `.tflite` learners.


def test_a_tflite_learner(pool, tflite_file):
    learner = pool.add_tflite(tflite_file, name="tiny", sparsity=0.5, epoch=2)
    assert tflite_file.exists()
    assert learner.quantized
    assert (learner.n_classes, learner.sparsity, learner.epoch) == (3, 0.5, 2)
    assert learner.path.read_bytes() == tiny_tflite()
    x = samples()
    expected = learner.load().predict(x)
    np.testing.assert_array_equal(pool.predict(x, verbose=0)[0], expected)
    check_probabilities(pool.predict(x, verbose=0))


def test_a_float_tflite_learner_of_logits(pool, tmp_path):
    path = tmp_path / "float.tflite"
    path.write_bytes(tiny_tflite(int8=False, softmax=False))
    learner = pool.add_tflite(path, from_logits=True)
    assert not learner.quantized
    check_probabilities(pool.predict(samples(), verbose=0))


def test_a_file_that_does_not_run_is_rejected(pool, tmp_path):
    path = tmp_path / "broken.tflite"
    path.write_bytes(b"TFL3 or not")
    before = everything(pool.path)
    with pytest.raises(ValueError, match=r"Expected a .tflite model"):
        pool.add_tflite(path)
    with pytest.raises(ValueError, match=r"Expected a .tflite model"):
        pool.add_tflite(tmp_path / "missing.tflite")
    assert everything(pool.path) == before


def test_unknown_metadata_is_rejected(pool, tflite_file):
    before = everything(pool.path)
    with pytest.raises(TypeError, match="sparsitty"):
        pool.add_tflite(tflite_file, sparsitty=0.5)
    assert everything(pool.path) == before
    assert LearnerPool(pool.path).damaged == []


# --- Quantised pools.


@pytest.mark.tensorflow
def test_a_pool_of_int8_learners_with_learned_ranges(pool):
    models = [quantized_model(seed) for seed in range(2)]
    for seed, model in enumerate(models):
        pool.add(model, name=f"net-{seed}", epoch=seed, run="r")
    quantized = pool.quantize(verbose=0)
    assert quantized.path == pool.path.with_name("pool-int8")
    assert names(quantized) == names(pool)
    for learner, original, model in zip(quantized, pool, models, strict=True):
        assert learner.file == "model.tflite"
        assert learner.quantized
        assert learner.source == original.sha256
        assert (learner.epoch, learner.run) == (original.epoch, "r")
        assert learner.origin.endswith("int8, ranges learned")
        member = learner.load()
        assert (member.input_dtype, member.output_dtype) == ("int8", "int8")
        scale, _ = member.output_quantization
        difference = member.predict(X) - model.predict(X, verbose=0)
        assert np.abs(difference).max() <= 2 * scale
    check_probabilities(quantized.predict(X, verbose=0))
    assert len(LearnerPool(quantized.path)) == 2


@pytest.mark.tensorflow
def test_a_pool_of_int8_learners_with_representative_data(pool, tmp_path):
    pool.add(sparse_model(activation=None), from_logits=True)
    quantized = pool.quantize(X, path=tmp_path / "other", verbose=0)
    assert quantized.path == tmp_path / "other"
    assert quantized[0].origin.endswith("int8, ranges representative data")
    assert quantized[0].from_logits is True
    agreement = (
        quantized.predict(X, verbose=0).argmax(-1)
        == pool.predict(X, verbose=0).argmax(-1)
    ).mean()
    assert agreement > 0.9


@pytest.mark.tensorflow
def test_several_learners_read_one_generator(pool):
    for seed in range(2):
        pool.add(dense_model(seed))
    rows = (X[i : i + 5] for i in range(0, len(X), 5))
    quantized = pool.quantize(rows, verbose=0)
    agreement = quantized.predict(X, verbose=0) - pool.predict(X, verbose=0)
    assert np.abs(agreement).max() < 0.1


@pytest.mark.tensorflow
def test_interrupted_quantization_is_resumed(pool, monkeypatch):
    for seed in range(3):
        pool.add(quantized_model(seed))
    export, made = pool_module.export_tflite, []

    def counted(*args, **kwargs):
        made.append(args)
        if len(made) == 2:
            raise KeyboardInterrupt
        return export(*args, **kwargs)

    monkeypatch.setattr(pool_module, "export_tflite", counted)
    with pytest.raises(KeyboardInterrupt):
        pool.quantize(verbose=0)
    first = LearnerPool(f"{pool.path}-int8")
    assert names(first) == ["learner-0000"]
    assert names(pool.quantize(verbose=0)) == names(pool)
    assert len(made) == 4
    pool.quantize(verbose=0)
    assert len(made) == 4


@pytest.mark.tensorflow
def test_int8_learners_of_other_models_are_rejected(pool, tmp_path):
    pool.add(quantized_model(0))
    pool.quantize(verbose=0)
    shutil.rmtree(pool.path)
    again = LearnerPool(pool.path)
    again.add(quantized_model(1))
    with pytest.raises(ValueError, match="learner-0000 came from other learners"):
        again.quantize(verbose=0)
    assert len(again.quantize(path=tmp_path / "free", verbose=0)) == 1


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "Expected a model with learned ranges, or representative data"),
        (np.zeros((5, 9), "float32"), r"Received: shape \(5, 9\)"),
        (np.full((5, 8), np.nan), "Expected finite representative data"),
    ],
)
def test_nothing_is_written_without_data_that_fits(pool, given, message):
    pool.add(dense_model())
    before = everything(pool.path.parent)
    with pytest.raises(ValueError, match=message):
        pool.quantize(given, verbose=0)
    assert everything(pool.path.parent) == before
    assert not pool.path.with_name("pool-int8").exists()


@pytest.mark.tensorflow
def test_an_existing_folder_stays(pool, tmp_path):
    pool.add(dense_model())
    target = tmp_path / "there"
    target.mkdir()
    with pytest.raises(ValueError, match="learned ranges"):
        pool.quantize(path=target, verbose=0)
    assert target.is_dir()


def test_tflite_learners_cannot_be_quantized(pool, tflite_file):
    pool.add_tflite(tflite_file, name="tiny")
    with pytest.raises(ValueError, match=r"Keras models. Received: tiny"):
        pool.quantize(samples(), verbose=0)
    assert not pool.path.with_name("pool-int8").exists()


def test_an_empty_pool_is_rejected(pool):
    for act in (pool.quantize, lambda: pool.predict(X)):
        with pytest.raises(ValueError, match="Expected a pool with learners"):
            act()
    assert not pool.path.with_name("pool-int8").exists()


def test_a_plain_model_has_the_size_of_a_prepared_one(pool):
    plain, prepared = dense_model(), dense_model()
    layers.prepare(prepared)
    assert pool.add(plain).gzip_bytes == pool.add(prepared).gzip_bytes
    assert type(plain.layers[-1]) is keras.layers.Dense
