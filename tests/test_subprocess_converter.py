"""Export through a separate process; run it once per backend."""

import importlib.util

import keras
import numpy as np
import pytest
from backends import BACKEND
from model_cases import images, residual, subclassed

from keras_micronets.edge import Member
from keras_micronets.export import export_tflite, subprocess_converter
from keras_micronets.export.subprocess_converter import make_file_in_subprocess
from keras_micronets.export.workers import worker
from keras_micronets.layers import kernels, prepare, set_quantizers

pytest.importorskip("tensorflow")
OPTIONS = {"quantization": "int8", "batch_size": 1, "sparse_storage": True}


def learned(model):
    prepare(model, quantize=True)
    kernel = kernels(model)[0]
    kernel.set_mask(np.arange(kernel.size).reshape(kernel.mask.shape) % 2 == 0)
    set_quantizers(model, True)
    model(images(64), training=True)
    return model


def test_learned_ranges_and_masks_arrive(tmp_path):
    model, path = learned(residual()), tmp_path / "model.tflite"
    file = make_file_in_subprocess(model, path, samples=None, **OPTIONS)
    content, report = file.content, file.report
    assert report.path == path
    assert report.calibration == "learned"
    assert report.n_bytes == len(content)
    assert report.n_masked == kernels(model)[0].size // 2 <= report.n_zeros
    assert report.largest_difference <= 1
    assert "2 CONV_2D" in str(report)
    assert report.sparse_storage
    here = keras.ops.convert_to_numpy(model(images(8), training=False))
    assert np.abs(Member(content).predict(images(8)) - here).max() <= 1.5 / 256


@pytest.mark.slow
def test_samples_and_custom_layers_arrive():
    model, x = subclassed(), images(64)
    report = make_file_in_subprocess(model, "", samples=[x[:50]], **OPTIONS).report
    assert report.calibration == "representative data"
    assert report.n_compared == 50


@pytest.mark.slow
def test_quantisers_that_are_lost_are_detected():
    with pytest.raises(ValueError, match="Received: 'subclassed'"):
        make_file_in_subprocess(learned(subclassed()), "", samples=None, **OPTIONS)


class Doubled(keras.layers.Layer):
    def call(self, inputs):
        return 2 * inputs


Doubled.__module__ = "__main__"  # as if made in a notebook


@pytest.mark.slow
def test_a_layer_that_the_process_cannot_import():
    model = keras.Sequential([keras.Input((4,)), Doubled(), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match=r"register.*with \['__main__.Doubled'\]"):
        make_file_in_subprocess(model, "", samples=None, **OPTIONS)


def test_only_importable_modules_are_imported():
    made = type("Made", (Doubled,), {"__module__": "no_such_package.module"})
    model = keras.Sequential([keras.Input((4,)), Doubled(), made()])
    job = subprocess_converter._job(model, {})
    assert job["custom"] == ["__main__.Doubled", "no_such_package.module.Made"]
    assert job["modules"] == []
    assert subprocess_converter._job(subclassed(), {})["modules"] == ["model_cases"]


def test_without_tensorflow(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="KERAS_BACKEND=tensorflow"):
        export_tflite(residual(), tmp_path / "model.tflite", quantization=None)
    assert not list(tmp_path.iterdir())


def test_a_process_that_fails(monkeypatch):
    monkeypatch.setattr(worker, "_workers", {})
    monkeypatch.setattr(worker.sys, "executable", "false")
    with pytest.raises(RuntimeError, match="return code 1"):
        make_file_in_subprocess(residual(), "", samples=None, **OPTIONS)


def test_a_process_that_dies(monkeypatch):
    def die(self, job):
        raise worker.WorkerDiedError(-9, "")

    monkeypatch.setattr(worker.Worker, "run", die)
    with pytest.raises(ValueError, match=r"ended the process .*\(SIGKILL\).*unharmed"):
        make_file_in_subprocess(residual(), "", samples=None, **OPTIONS)


def test_the_process_is_kept_unless_it_imports_the_users_modules(monkeypatch):
    def process():
        return [x for key, x in worker._workers.items() if "-m" in key and x.is_alive]

    make_file_in_subprocess(residual(), "", samples=[images(20)], **OPTIONS)
    (kept,) = process()
    make_file_in_subprocess(residual(), "", samples=[images(20)], **OPTIONS)
    assert process() == [kept]
    make_file_in_subprocess(subclassed(), "", samples=[images(20)], **OPTIONS)
    assert not process()


@pytest.mark.skipif(BACKEND == "tensorflow", reason="needs no other process")
def test_other_backends_export_directly(tmp_path):
    path = tmp_path / "model.tflite"
    data = [(images(40), None)]
    report = export_tflite(residual(), path, representative_data=data)
    assert report.n_bytes == path.stat().st_size
    assert report.n_compared == 40
