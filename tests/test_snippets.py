"""Run every Python example of the docstrings, the README and the documentation.

Each block starts with the names of `namespace` below and, as in doctest, with those of
the module whose docstring it is in. Its working folder holds the files of `files`.
"""

import ast
import importlib
import itertools
import json
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_micronets

pytestmark = pytest.mark.tensorflow

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "keras_micronets"
FENCE = re.compile(r"^( *)```python\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
SHAPE, CLASSES, SAMPLES = (8, 8, 1), 2, 40

# Blocks that cannot run here, and why.
NOT_RUN = {
    "edge.distributed.gateway.Gateway": "needs an MQTT broker",
    "edge.distributed.node.Node": "needs an MQTT broker",
    "docs/distributed.md": "needs an MQTT broker",
    "cli.main": "takes minutes; tests/test_quickstart.py runs the command",
}

# Blocks that take more than about three seconds.
SLOW = {
    "README.md",
    "README.md:2",
    "README.md:3",
    "README.md:4",
    "callbacks.cycles.learner_cycles.LearnerCycles",
    "callbacks.learner_checkpoint.LearnerCheckpoint",
    "callbacks.quantization_aware_training.QuantizationAwareTraining",
    "channels.cut.compact",
    "compression.compress",
    "distillation.distill.distill",
    "docs/distillation.md",
    "docs/index.md",
    "docs/side_by_side.md",
    "docs/tasks.md",
    "joint_training.side_by_side",
    "prune2edge.train_prune2edge",
    "selection.methods.auto",
}


def docstrings(node, name):
    """Return docstrings of a module, its classes, functions and methods by name."""
    found = {name: ast.get_docstring(node) or ""}
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef):
            found |= docstrings(child, f"{name}.{child.name}")
    return found


def texts():
    """Return docstrings and documents by name, with the module that each is in."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        module = ".".join(part for part in parts if part != "__init__")
        for name, text in docstrings(ast.parse(path.read_text()), module).items():
            found[name.removeprefix("keras_micronets.")] = text, module
    for path in [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md"))]:
        found[str(path.relative_to(ROOT))] = path.read_text(), None
    return found


def blocks():
    """Return a parameter of `test_block_runs` for each example."""
    found = []
    for name, (text, module) in texts().items():
        for i, (_, block) in enumerate(FENCE.findall(text)):
            label = f"{name}:{i + 1}" if i else name
            marks = [pytest.mark.slow] if label in SLOW else []
            if label in NOT_RUN:
                marks.append(pytest.mark.skip(reason=NOT_RUN[label]))
            block = textwrap.dedent(block)
            found.append(pytest.param(module, block, id=label, marks=marks))
    return found


def make_model(seed=0):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input(SHAPE, name="image"),
            keras.layers.Conv2D(32, 3, use_bias=False, name="conv1"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.ReLU(name="relu"),
            keras.layers.Conv2D(32, 3, activation="relu", name="conv2"),
            keras.layers.GlobalAveragePooling2D(name="pool"),
            keras.layers.Dense(CLASSES, activation="softmax", name="head"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def make_data():
    rng = np.random.default_rng(0)
    y = rng.integers(CLASSES, size=SAMPLES).astype("int32")
    x = rng.random((SAMPLES, *SHAPE), "float32") + y[:, None, None, None]
    return x.clip(0, 1.5) / 1.5, y


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Return a folder with the files that examples read."""
    from cryptography.hazmat.primitives import serialization as pem
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from PIL import Image

    folder = tmp_path_factory.mktemp("files")
    x, y = make_data()
    pool = keras_micronets.LearnerPool(folder / "pool of examples")
    for seed in range(4):
        pool.add(make_model(seed), epoch=seed, metrics={"val_accuracy": 0.5})
    pool.predict(x)
    key = Ed25519PrivateKey.generate()
    (folder / "private.pem").write_bytes(
        key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption())
    )
    (folder / "public.pem").write_bytes(
        key.public_key().public_bytes(
            pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo
        )
    )
    ensemble = keras_micronets.EnsemblePruner(pool, n_members=2, random_state=0)
    ensemble.prune(x, y)
    ensemble.export(
        folder / "bundle",
        representative_data=x,
        signing_key=folder / "private.pem",
    )
    for name in ("bundle", "bundle-2"):
        shutil.make_archive(str(folder / name), "zip", folder / "bundle")
    member = next((folder / "bundle").rglob("*.tflite"))
    for name in ("model", "small", "other", "a", "b"):
        shutil.copy(member, folder / f"{name}.tflite")
    np.save(folder / "images.npy", x)
    Image.fromarray(np.zeros((48, 64, 3), "uint8")).save(folder / "dog.jpg")
    rows = np.random.default_rng(0).random((256, 3))
    np.savetxt(folder / "accelerometer.csv", rows, delimiter=",", fmt="%.4f")
    return folder


@pytest.fixture
def namespace(files, tmp_path, monkeypatch):
    """Return the names that each block starts with."""
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (x, y), rng = make_data(), np.random.default_rng(0)
    # Twelve learners in three groups that err on the same samples.
    wrong = rng.random((3, SAMPLES)).repeat(4, axis=0) < 0.3
    wrong ^= rng.random((12, SAMPLES)) < 0.05
    is_one = np.where((y == 1) ^ wrong, 0.8, 0.2) + rng.uniform(-0.1, 0.1, (12, 1))
    return {
        "itertools": itertools,
        "np": np,
        "keras": keras,
        "keras_micronets": keras_micronets,
        "kmn": keras_micronets,
        "model": make_model(),
        **{f"x{end}": x for end in ("", "_train", "_val", "_test")},
        **{f"y{end}": y for end in ("", "_train", "_val", "_test")},
        "images": x,
        "pool": keras_micronets.LearnerPool("pool of examples"),
        "probabilities": np.stack([1 - is_one, is_one], axis=-1).astype("float32"),
    }


@pytest.mark.parametrize(("module", "block"), blocks())
def test_block_runs(namespace, module, block):
    names = vars(importlib.import_module(module)) if module else {}
    exec(compile(block, "example", "exec"), {**names, **namespace})


def test_exceptions_are_blocks():
    labels = {parameter.id for parameter in blocks()}
    assert labels >= SLOW | NOT_RUN.keys()


# Names that the README's reader has, with their types.
GIVEN = """
from typing import Any

import keras
import keras_micronets as kmn
import numpy as np

def given() -> Any: ...

x = y = x_train = y_train = x_val = y_val = x_test = y_test = np.zeros(1)
model: keras.Model = given()
pool: kmn.LearnerPool = given()
__all__ = ["keras", "kmn", "np", "model", "pool", "x", "y", "x_train", "y_train"]
__all__ += ["x_val", "y_val", "x_test", "y_test"]
"""


def test_documents_are_typed(tmp_path):
    """Pyright accepts the examples, with the settings of a new user."""
    (tmp_path / "given.py").write_text(GIVEN)
    for name in ("README.md", "docs/index.md"):
        for i, (_, block) in enumerate(FENCE.findall((ROOT / name).read_text())):
            path = tmp_path / f"{Path(name).stem}_{i + 1}.py"
            path.write_text("from given import *\n" + textwrap.dedent(block))
    settings = {"extraPaths": [str(ROOT)], "pythonVersion": "3.11"}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable]
    done = subprocess.run(
        [*command, "--project", tmp_path], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
