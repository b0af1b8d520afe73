"""Files that earlier versions wrote load, and predict what they did.

The archives are in `fixtures`, beside the script that wrote them.
"""

import hashlib
import io
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from backends import BACKEND

import keras_micronets
from keras_micronets import layers, learning_rates, schedules
from keras_micronets.callbacks import Cycle, LearnerCycles, mask_updates
from keras_micronets.callbacks.cycles import masks
from keras_micronets.edge import EnsembleRunner, Member, verify
from keras_micronets.export import BundleMember, write_bundle
from keras_micronets.learners import LearnerPool

ARCHIVES = sorted(Path(__file__).with_name("fixtures").glob("version_*.zip"))
MODELS = ("images", "series", "arithmetic", "shared", "sparse", "direct")
MODELS += ("learned_steps", "dense")
COMPILED = ("sparse", "learned_steps", "dense")
IN_FLOAT = ("sparse", "direct")  # some of their outputs


@pytest.fixture(scope="module", params=ARCHIVES, ids=lambda path: path.stem)
def written(request, tmp_path_factory):
    """Return the folder of what one version wrote."""
    folder = tmp_path_factory.mktemp(request.param.stem)
    with zipfile.ZipFile(request.param) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def arrays(written):
    with np.load(written / "arrays.npz", allow_pickle=False) as found:
        return dict(found)


@pytest.fixture(scope="module")
def known(written):
    return json.loads((written / "known.json").read_text())


@pytest.fixture
def pool_folder(written, tmp_path):
    """Return a copy of the pool, to write to."""
    return shutil.copytree(written / "pool", tmp_path / "pool")


def assert_same(found, expected, *, quantized=True):
    """Assert equal bits where integers are computed on TensorFlow, which wrote them.

    Sums of floats are rounded otherwise by other processors and backends.
    """
    if quantized and BACKEND == "tensorflow":
        np.testing.assert_array_equal(found, expected)
    else:
        atol = 1e-6 if BACKEND == "tensorflow" else 1e-5
        np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


def assert_same_rows(found, expected):
    """Assert equal tables; their numbers may be rounded elsewhere."""
    assert len(found) == len(expected)
    for row, others in zip(found, expected, strict=True):
        for x, other in zip(row, others, strict=True):
            is_rounded = isinstance(other, float)
            assert x == (pytest.approx(other, rel=1e-6) if is_rounded else other)


def outputs(model, x):
    """Return what `predict` does, in the way that is faster for one batch."""
    if BACKEND == "jax":
        return model.predict(x, verbose=0)
    return keras.ops.convert_to_numpy(model(x, training=False))


def saved_arrays(path):
    """Return all arrays in a `.keras` file."""
    with zipfile.ZipFile(path) as archive:
        weights = archive.read("model.weights.h5")
    found = []
    with h5py.File(io.BytesIO(weights)) as file:
        file.visititems(
            lambda _, x: found.append(x[()]) if isinstance(x, h5py.Dataset) else None
        )
    return found


def digest(array):
    array = np.asarray(array)
    if array.dtype.kind in "iu":  # backends count steps in integers of unlike widths
        array = array.astype("int64")
    content = np.ascontiguousarray(array).tobytes()
    return hashlib.sha256(f"{array.shape}".encode() + content).hexdigest()


def test_there_are_archives():
    assert ARCHIVES


def test_registered_names_are_known(known):
    assert all((keras_micronets.EnsemblePruner, learning_rates, schedules))  # imported
    find = keras.saving.get_registered_object
    assert [name for name in known["registered"] if find(name) is None] == []


@pytest.mark.parametrize("name", MODELS)
def test_models(name, written, arrays, known):
    path = written / f"{name}.keras"
    model, about = keras.saving.load_model(path), known["models"][name]
    found = outputs(model, arrays[f"{name}/x"])
    assert_same(found, arrays[f"{name}/y"], quantized=name not in IN_FLOAT)

    bits = [np.packbits(kernel.mask).tobytes() for kernel in layers.kernels(model)]
    assert hashlib.sha256(b"".join(bits)).hexdigest() == about["masks"]
    rows = keras_micronets.sparsity_report(model).rows
    assert [[path, [*shape], *rest] for path, shape, *rest in rows] == about["sparsity"]
    rows = keras_micronets.quantization_report(model).rows
    assert_same_rows([list(vars(row).values()) for row in rows], about["ranges"])

    variables = [*model.variables]
    if name in COMPILED:
        variables += model.optimizer.variables
    loaded = {digest(keras.ops.convert_to_numpy(x.value)) for x in variables}
    assert {digest(x) for x in saved_arrays(path)} <= loaded


@pytest.mark.parametrize("name", MODELS)
def test_models_train_and_are_saved_again(name, written, arrays, tmp_path):
    if BACKEND == "jax" and name not in ("sparse", "dense"):
        pytest.skip("JAX takes long to compile steps of many layers")
    model = keras.saving.load_model(written / f"{name}.keras")
    x = arrays[f"{name}/x"]
    before = outputs(model, x)
    y = np.arange(len(x)) % before.shape[-1]
    if name not in COMPILED:
        model.compile("sgd", "mse")
        y = np.zeros_like(before)
    model.run_eagerly = BACKEND != "jax"  # tracing takes longer than one step
    model.train_on_batch(x, y)
    after = outputs(model, x)
    assert np.isfinite(after).all()
    assert (after != before).any()

    model.save(tmp_path / "again.keras")
    again = keras.saving.load_model(tmp_path / "again.keras")
    np.testing.assert_array_equal(outputs(again, x), after)


def test_values(known, arrays):
    values, load = known["values"], keras.saving.deserialize_keras_object
    found = {name: load(config) for name, config in values["configs"].items()}
    for name, curve in values["curves"].items():
        at = found[name]
        numbers = [at(i / 20) if callable(at) else at for i in range(21)]
        assert numbers == pytest.approx(curve, rel=1e-12)
    for name, bounds in values["measured"].items():
        measured = found[name].measure(arrays["values/x"])
        assert [float(bound) for bound in measured] == pytest.approx(bounds, rel=1e-6)
        assert found[name].momentum == values["momentum"][name]
        scheme = found[f"scheme_{name}"]
        assert scheme == type(scheme)(found[name], 4, 7)


def test_values_are_saved_again(known):
    save, load = (
        keras.saving.serialize_keras_object,
        keras.saving.deserialize_keras_object,
    )
    for config in known["values"]["configs"].values():
        again = json.loads(json.dumps(save(load(config))))
        assert json.loads(json.dumps(save(load(again)))) == again


def test_pool(written, pool_folder, arrays):
    pool = LearnerPool(pool_folder)
    learners = json.loads((written / "learners.json").read_text())
    assert not pool.damaged
    for learner, before in zip(pool, learners, strict=True):
        assert before.items() <= learner.to_dict().items()
        assert (learner.task, learner.outputs) == ("multiclass", (before["n_classes"],))
    for learner in pool:
        if learner.is_keras:
            model = learner.load()
            assert layers.sparsity(model) == learner.sparsity
            assert (layers.quantized_share(model) > 0) == learner.quantized

    kept = {
        path: path.read_bytes()
        for path in pool_folder.rglob("predictions/**/*")
        if path.is_file()
    }
    assert len(kept) == len(pool)
    np.testing.assert_array_equal(
        pool.predict(arrays["pool/x"], verbose=0), arrays["pool/y"]
    )
    assert {*pool_folder.rglob("predictions/*/*")} == {*kept}  # none was added
    shutil.rmtree(pool_folder / "predictions")
    found = pool.predict(arrays["pool/x"], verbose=0)
    for i, learner in enumerate(pool):
        assert_same(found[i], arrays["pool/y"][i], quantized=learner.quantized)


def test_a_run_of_cycles_goes_on(written, pool_folder, arrays, monkeypatch):
    """The second learner begins with the kept parent and the same mask.

    Version 0.1.0 had no floors; elsewhere the masks are the same.
    """
    monkeypatch.setattr(
        mask_updates,
        "mask_above_floor",
        lambda pattern, scores, n_removed, groups: pattern.mask(scores, n_removed),
    )
    pool = LearnerPool(pool_folder)
    model = keras.saving.load_model(written / "cycled.keras")
    model.compile(keras.optimizers.SGD(), "sparse_categorical_crossentropy")
    every_kernel = layers.Scope(first=True, last=True, small=True)  # as in 0.1.0
    mask = masks.Magnitude(0.5, 0.5, scope=every_kernel)
    cycle = Cycle("parent", mask, lambda progress: 0.01)
    model.fit(
        arrays["training/x"],
        arrays["training/y"],
        epochs=2,
        initial_epoch=1,
        batch_size=8,
        shuffle=False,
        verbose=0,
        callbacks=[LearnerCycles(pool, 2, cycle, seed=3)],
    )
    learner = pool["run-000-cycle-001"].load()
    found = learner.predict(arrays["pool/x"], verbose=0)
    np.testing.assert_allclose(found, arrays["pool/resumed"], atol=1e-5)


def test_ensemble(written, arrays, tmp_path):
    ensemble = keras.saving.load_model(written / "ensemble.keras")
    x, y = arrays["training/x"], arrays["training/y"]
    found = ensemble.predict(x, verbose=0)
    assert_same(found, arrays["ensemble/y"], quantized=False)
    scores = ensemble.evaluate(x, y, verbose=0)
    np.testing.assert_allclose(scores, arrays["ensemble/evaluated"], rtol=1e-5)
    assert [layers.quantized_share(member) for member in ensemble.members_] == [1, 0]

    ensemble.save(tmp_path / "again.keras")
    again = keras.saving.load_model(tmp_path / "again.keras")
    np.testing.assert_array_equal(outputs(again, x), outputs(ensemble, x))


def test_bundle_folder(written, arrays):
    x = arrays["bundles/x"]
    with EnsembleRunner(written / "bundle") as runner:
        assert runner.class_names == ("one", "two", "three")
        together = runner.predict(x, early_exit=False)
        np.testing.assert_array_equal(together, arrays["bundle/y"])
        members = runner.predict_members(x)
        np.testing.assert_array_equal(members, arrays["bundle/members"])
        early, asked = runner.predict_early(x)
        np.testing.assert_array_equal(early, arrays["bundle/early"])
        np.testing.assert_array_equal(asked, arrays["bundle/asked"])
        assert 1 < np.mean(asked) < 2


def test_bundle_zip(written, arrays):
    key = written / "public.pem"
    with EnsembleRunner(written / "bundle.zip", public_key=key) as runner:
        found = runner.predict(arrays["bundles/x"])
    np.testing.assert_array_equal(found, arrays["bundle.zip/y"])


def test_runners_of_earlier_versions(written, arrays, tmp_path):
    """They read new bundles that need nothing new, and reject a temperature."""
    np.save(tmp_path / "x.npy", arrays["bundles/x"])
    files = sorted((written / "bundle").glob("*.tflite"))
    members = [BundleMember(file.stem, file) for file in files]
    for temperature in (1.0, 2.0):
        bundle = write_bundle(tmp_path / "new", members, temperature=temperature)
        command = [sys.executable, written / "bundle", "predict", tmp_path / "x.npy"]
        options = ["--bundle", bundle, "--output", tmp_path / "y.npy"]
        done = subprocess.run([*command, *options], capture_output=True, text=True)
        if temperature == 1:
            assert done.returncode == 0, done.stderr
            with EnsembleRunner(bundle) as runner:
                found = runner.predict(arrays["bundles/x"])
            np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), found)
        else:
            assert done.returncode == 2
            assert "'temperature'" in done.stderr


def test_bundles_without_a_temperature(written):
    manifest = verify(written / "bundle")
    assert manifest.combination.temperature == 1
    assert (
        manifest.to_json().encode() == (written / "bundle/manifest.json").read_bytes()
    )


def test_single_file(written, arrays):
    found = Member(written / "single.tflite").predict_raw(arrays["bundles/x"])
    np.testing.assert_allclose(found, arrays["single/y"], atol=1e-6)
