import os
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_micronets as kmn

ROOT = Path(__file__).parent.parent
CODE = """
import keras_micronets, sys
assert keras_micronets.__file__.startswith(sys.argv[1]), keras_micronets.__file__
from keras_micronets.export.bundle.writer import _runner_files
print(*sorted(_runner_files()))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", folder]
    subprocess.run([*command, ROOT], check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.mark.slow
def test_wheel_holds_the_package_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()

    tops = {name.split("/")[0] for name in names}
    assert tops == {
        "keras_micronets",
        f"{wheel.name[: -len('-py3-none-any.whl')]}.dist-info",
    }
    sources = [
        *ROOT.glob("keras_micronets/**/*.py"),
        *ROOT.glob("keras_micronets/**/*.html"),
    ]
    assert {str(path.relative_to(ROOT)) for path in sources} <= set(names)
    assert "keras_micronets/selection/report/page.html" in names
    assert "keras_micronets/py.typed" in names


@pytest.mark.slow
def test_wheel_works_outside_the_checkout(wheel, tmp_path):
    target = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(target)

    done = subprocess.run(
        [sys.executable, "-P", "-c", CODE, str(target)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr
    assert "edge/runner.py" in done.stdout


def run_checkout(code, **options):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    subprocess.run(command, env=environment, check=True, **options)


@pytest.mark.tensorflow
def test_files_load_in_a_process_that_imports_the_package_only(tmp_path):
    models = []
    for seed in range(2):
        keras.utils.set_random_seed(seed)
        model = keras.Sequential(
            [keras.Input((4,)), keras.layers.Dense(3, activation="softmax")]
        )
        model.compile("adam", kmn.losses.Distillation())
        kmn.layers.prepare(model)
        models.append(model)
    models[0].save(tmp_path / "prepared.keras")
    y = np.array([0, 1, 2, 0])
    ensemble = kmn.EnsemblePruner(models, 1, method="top_k")
    ensemble.prune(np.ones((4, 4)), y, verbose=0).save(tmp_path / "ensemble.keras")
    code = """
        import keras
        import keras_micronets
        for name in ("prepared", "ensemble"):
            keras.saving.load_model(f"{name}.keras")
    """
    run_checkout(textwrap.dedent(code), cwd=tmp_path)


@pytest.mark.tensorflow
def test_nothing_is_loaded_where_keras_is_not():
    code = "import sys, keras_micronets.edge; assert 'keras' not in sys.modules"
    run_checkout(code)
