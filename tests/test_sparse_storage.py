import keras
import numpy as np
import pytest

from keras_micronets.edge import Member
from keras_micronets.export import export_tflite
from keras_micronets.export.make_file import prefer_sparse
from keras_micronets.layers import kernels, prepare, set_quantizers

pytestmark = pytest.mark.tensorflow
X = np.random.default_rng(0).normal(size=(64, 128)).astype("float32")


def dense_model(block):
    """Return a model whose first kernel is nine tenths zero, in blocks of inputs."""
    inputs = keras.Input((128,))
    x = keras.layers.Dense(64, activation="relu")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(5)(x))
    prepare(model, quantize=True)
    mask = np.random.default_rng(0).random((128 // block, 64)) > 0.9
    kernels(model)[0].set_mask(np.repeat(mask, block, axis=0))
    set_quantizers(model, True)
    model(X, training=True)
    return model


def test_kept_in_blocks(tmp_path):
    path, other = tmp_path / "sparse.tflite", tmp_path / "dense.tflite"
    model = dense_model(block=16)
    report = export_tflite(model, path, sparse_storage=True)
    dense = export_tflite(model, other)
    assert report.sparse_storage.startswith("kept")
    assert report.n_bytes == path.stat().st_size < dense.n_bytes / 2
    assert report.n_zeros == dense.n_zeros
    assert report.n_weights == dense.n_weights
    assert report.weight_bytes["int8"] < dense.weight_bytes["int8"] / 2
    assert report.largest_difference <= 1
    difference = Member(path).predict_raw(X).astype(int) - Member(other).predict_raw(X)
    assert np.abs(difference).max() <= 1


def test_not_kept_where_litert_does_not_run_it(tmp_path):
    path, model = tmp_path / "model.tflite", dense_model(block=1)
    report = export_tflite(model, path, sparse_storage=True)
    assert report.sparse_storage == "not kept: LiteRT does not run the sparse file"
    assert report.n_bytes == export_tflite(model, path).n_bytes
    assert export_tflite(model, path).sparse_storage is None


def test_float_files_are_unpacked_by_litert(tmp_path):
    path, model = tmp_path / "model.tflite", dense_model(block=1)
    report = export_tflite(model, path, quantization=None, sparse_storage=True)
    assert report.sparse_storage.startswith("kept")
    assert report.operations["DENSIFY"] == 1
    assert report.largest_difference < 1e-4


def files():
    """Return files of one architecture with different outputs."""
    from keras_micronets.export.conversion.converter import convert

    for seed in (0, 1):
        keras.utils.set_random_seed(seed)
        layers = [keras.Input((128,)), keras.layers.Dense(4)]
        yield convert(keras.Sequential(layers), quantization=None)


def test_not_kept_unless_smaller_and_equal():
    one, other = files()
    kept, why = prefer_sparse(one, lambda sparse: one, [X])
    assert (kept, why) == (one, "not kept: 0 bytes more")
    kept, why = prefer_sparse(one + bytes(64), lambda sparse: other, [X])
    assert kept == one + bytes(64)
    assert why == "not kept: the sparse file returns other values"
    kept, why = prefer_sparse(one + bytes(64), lambda sparse: one, [X])
    assert (kept, why) == (one, "kept: 64 bytes less")
