import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
from tiny_tflite import SHAPE, tiny_tflite

from keras_micronets.edge import EnsembleRunner
from keras_micronets.edge.cli import main
from keras_micronets.export import BundleMember, write_bundle

NAMES = ["cat", "dog", "owl"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_bundle(
        tmp_path_factory.mktemp("cli") / "bundle",
        [BundleMember(f"m{seed}", tiny_tflite(seed)) for seed in range(2)],
        class_names=NAMES,
        preprocessing={"mean": 127.5, "scale": 64.0},
        temperature=2.0,
    )


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(1).integers(0, 256, (5, *SHAPE), "uint8")


@pytest.fixture
def images(x, tmp_path):
    np.save(tmp_path / "images.npy", x)
    return tmp_path / "images.npy"


@pytest.fixture
def expected(bundle, x):
    with EnsembleRunner(bundle) as runner:
        yield runner.predict(x), runner.predict_members(x)


def run(*arguments, python=sys.executable, **options):
    command = [str(argument) for argument in (python, *arguments)]
    return subprocess.run(command, capture_output=True, text=True, **options)


def test_predict(bundle, images, expected, tmp_path, capsys):
    output = tmp_path / "out.data"
    arguments = ["predict", str(images), "--output", str(output)]
    assert main(arguments, path=bundle) == 0
    np.testing.assert_array_equal(np.load(output), expected[0])
    lines = [
        f"{i}: {p.argmax()} {NAMES[p.argmax()]} {p.max():.4f}"
        for i, p in enumerate(expected[0])
    ]
    assert capsys.readouterr().out.splitlines() == lines


def test_predict_members(bundle, images, expected, tmp_path, capsys):
    output = tmp_path / "out.npy"
    arguments = ["predict", str(images), "--members", "--output", str(output)]
    assert main(arguments, path=bundle) == 0
    np.testing.assert_array_equal(np.load(output), expected[1])
    p = expected[1][1, 0]
    first = capsys.readouterr().out.splitlines()[0]
    best = expected[0][0].argmax()
    assert first.startswith(f"0: {best} {NAMES[best]} {expected[0][0].max():.4f}  ")
    # Members stay as they are; their mean is scaled.
    powers = np.sqrt(expected[1].mean(axis=0))
    powers /= powers.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(expected[0], powers, atol=1e-6)
    assert first.endswith(f"  m1: {p.argmax()} {NAMES[p.argmax()]} {p.max():.4f}")


def test_bench(bundle, capsys):
    assert main(["bench", "--repeats", "2"], path=bundle) == 0
    assert "ensemble, threads" in capsys.readouterr().out


def test_bench_of_operators(bundle, tmp_path, capsys):
    path = tmp_path / "operators.json"
    arguments = ["bench", "--operators", str(path), "--repeats", "1"]
    assert main(arguments, path=bundle) == 0
    assert str(path) in capsys.readouterr().out
    assert all(row[-1] > 0 for row in json.loads(path.read_text())["rows"])
    assert (
        main(
            [*arguments[:2], str(tmp_path / "none" / "x"), *arguments[3:]], path=bundle
        )
        == 2
    )


def test_subprocess_from_another_directory(bundle, images, expected, tmp_path):
    before = sorted(bundle.rglob("*"))
    output = tmp_path / "out.npy"
    done = run(bundle, "predict", images.name, "--output", output, cwd=tmp_path)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 5), done.stderr
    np.testing.assert_array_equal(np.load(output), expected[0])
    relative = os.path.relpath(bundle, tmp_path)
    assert run(relative, "bench", "--repeats", 1, cwd=tmp_path).returncode == 0
    assert sorted(bundle.rglob("*")) == before
    assert main(["verify"], path=bundle) == 0


def array(tmp_path, x):
    np.save(tmp_path / "x.npy", x)
    return tmp_path / "x.npy"


def text(tmp_path):
    (tmp_path / "x.npy").write_text("no array")
    return tmp_path / "x.npy"


def empty(tmp_path):
    (tmp_path / "x.npy").write_bytes(b"")
    return tmp_path / "x.npy"


def archive(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.zeros(3))
    return tmp_path / "x.npz"


def broken_archive(tmp_path):
    (tmp_path / "x.npz").write_bytes(b"PK\x03\x04 and no more")
    return tmp_path / "x.npz"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path / "absent.npy", "absent.npy"),
        (lambda path: path, "Expected images in the directory"),
        (text, "Expected a .npy file"),
        (empty, "Expected a .npy file"),
        (broken_archive, "Expected a .npy file"),
        (archive, "Expected a .npy file"),
        (lambda path: array(path, np.array([None])), "Expected a .npy file"),
        (lambda path: array(path, np.zeros(SHAPE[1:])), "received shape (6, 2)"),
        (lambda path: array(path, np.full((1, *SHAPE), np.inf)), "finite"),
    ],
)
def test_bad_input(bundle, tmp_path, capsys, make, message):
    assert main(["predict", str(make(tmp_path))], path=bundle) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert message in captured.err


def test_output_that_cannot_be_written(bundle, images, tmp_path, capsys):
    arguments = ["predict", str(images), "--output", str(tmp_path)]
    assert main(arguments, path=bundle) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_damaged_bundle_in_a_subprocess(bundle, images, tmp_path):
    copy = shutil.copytree(bundle, tmp_path / "copy")
    (copy / "00-m0.tflite").write_bytes(b"damage")
    done = run(copy, "predict", images)
    assert (done.returncode, done.stdout) == (2, "")
    assert "00-m0.tflite" in done.stderr
    assert "Traceback" not in done.stderr


def test_missing_requirements_are_named(bundle, images):
    # -S hides the installed packages, as on a bare machine; -I the environment.
    done = run("-S", "-I", bundle, "predict", images)
    assert done.returncode == 2
    assert f"pip install -r {bundle / 'requirements.txt'}" in done.stderr


def test_edge_imports_nothing_heavy():
    code = (
        "import sys, keras_micronets.edge; keras_micronets.edge.EnsembleRunner;"
        "heavy = {'keras', 'tensorflow', 'tf_keras', 'jax', 'torch', "
        "'sklearn', 'scipy'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = run("-c", code, cwd=Path(__file__).parents[1])
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.slow
def test_fresh_environment_predicts_the_same(bundle, images, expected, tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    pip = ["-m", "pip", "install", "--quiet", "-r", bundle / "requirements.txt"]
    installed = run(*pip, python=python)
    assert installed.returncode == 0, installed.stderr
    output = tmp_path / "out.npy"
    done = run("-I", bundle, "predict", images, "--output", output, python=python)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(output), expected[0])
    absent = run("-c", "import tensorflow", python=python)
    assert "ModuleNotFoundError" in absent.stderr
