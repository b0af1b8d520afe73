import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

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
