import os
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from hostile_bundles import files_of
from tiny_tflite import SHAPE, tiny_tflite

from keras_micronets.edge import EnsembleRunner, Manifest, verify
from keras_micronets.edge.bundle.files import BundleFiles
from keras_micronets.export import BundleMember, atomic, write_bundle
from keras_micronets.export.bundle.writer import zip_size


def write(path, seeds=(0, 1), **options):
    members = [BundleMember(f"m{seed}", tiny_tflite(seed)) for seed in seeds]
    return write_bundle(path, members, class_names=["x", "y", "z"], **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("zips") / "bundle")


@pytest.fixture
def packed(tmp_path):
    return write(tmp_path / "bundle.zip")


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(1).normal(size=(5, *SHAPE)).astype("float32")


def test_same_files_in_both_forms(folder, packed):
    with zipfile.ZipFile(packed) as archive:
        names = archive.namelist()
        contents = {name: archive.read(name) for name in names}
    assert contents == files_of(folder)
    assert names == sorted(names)


def test_same_predictions_from_both_forms(folder, packed, x):
    assert verify(packed) == verify(folder) == Manifest.read(packed)
    assert zip_size(packed) == zip_size(folder)
    with EnsembleRunner(folder) as a, EnsembleRunner(packed) as b:
        np.testing.assert_array_equal(a.predict_members(x), b.predict_members(x))


def test_same_members_same_bytes(folder, packed, tmp_path, monkeypatch):
    monkeypatch.setattr(atomic.zipfile.time, "time", lambda: 2e9)
    assert write(tmp_path / "other.zip").read_bytes() == packed.read_bytes()
    assert files_of(write(tmp_path / "other")) == files_of(folder)


def test_it_runs_without_installation(folder, packed, x, tmp_path):
    np.save(tmp_path / "x.npy", x)
    before = packed.read_bytes()

    def run(*arguments):
        command = [sys.executable, "-I", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    out = run("bundle.zip", "predict", "x.npy", "--output", "out.npy")
    assert len(out.splitlines()) == 5
    with EnsembleRunner(folder) as runner:
        np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), runner.predict(x))
    assert "threads" in run(packed, "bench", "--repeats", 1)
    assert sorted(os.listdir(tmp_path)) == ["bundle.zip", "out.npy", "x.npy"]
    assert packed.read_bytes() == before


def test_its_own_modules_are_imported(packed):
    code = f"import sys; sys.path.insert(0, {str(packed)!r}); import edge; print(edge)"
    command = [sys.executable, "-I", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True)
    assert str(packed) in done.stdout, done.stderr


def test_missing_requirements_are_named(packed):
    command = [sys.executable, "-S", "-I", str(packed), "bench"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert 'pip install "ai-edge-litert >=2.1, <3" "numpy' in done.stderr


def test_earlier_zip_is_replaced(packed, tmp_path):
    assert write(packed, seeds=[2]) == packed
    assert [m.name for m in verify(packed).members] == ["m2"]
    assert os.listdir(tmp_path) == ["bundle.zip"]


def test_other_files_are_left_alone(folder, packed, tmp_path):
    text, other = tmp_path / "text.zip", tmp_path / "other.zip"
    text.write_text("mine")
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("mine.txt", "mine")
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr("mine.txt", "mine")
    shutil.copytree(folder, tmp_path / "folder.zip")
    shutil.copy(other, tmp_path / "file")
    before = files_of(tmp_path)
    for name in ("text.zip", "other.zip", "bundle.zip", "folder.zip", "file"):
        with pytest.raises(ValueError, match="Expected"):
            write(tmp_path / name)
    assert files_of(tmp_path) == before


def test_earlier_zip_survives_a_failure(packed, tmp_path, monkeypatch):
    before = files_of(tmp_path)

    def fail(*_):
        raise RuntimeError("it does not run")

    for owner, name in ((EnsembleRunner, "predict"), (atomic.os, "replace")):
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, fail)
            with pytest.raises(RuntimeError, match="does not run"):
                write(packed, seeds=[2])
    with pytest.raises(ValueError, match="median"):
        write(packed, combination="median")
    assert files_of(tmp_path) == before


@pytest.mark.parametrize("form", ["bundle", "bundle.zip"])
def test_the_checked_bytes_are_run(tmp_path, form, x, monkeypatch):
    path = write(tmp_path / form)
    with EnsembleRunner(path) as runner:
        expected = runner.predict(x)
    read, seen = BundleFiles.read, []

    def read_once(self, name, **options):
        assert name not in seen
        seen.append(name)
        data = read(self, name, **options)
        if path.is_dir():
            (path / name).write_bytes(b"changed")
        return data

    monkeypatch.setattr(BundleFiles, "read", read_once)
    with EnsembleRunner(path) as runner:
        path.unlink() if path.is_file() else shutil.rmtree(path)
        np.testing.assert_array_equal(runner.predict(x), expected)
