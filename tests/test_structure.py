import importlib.util
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BEFORE = ROOT / "docs" / "structure_before.json"


def load_structure():
    spec = importlib.util.spec_from_file_location(
        "structure", ROOT / "docs" / "structure.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


structure = load_structure()
LAYERS = (("top",), ("left", "right"), ("base",))
HEAD = "__all__ = []\n"


@pytest.fixture
def make(tmp_path):
    """Return a function that writes a package and returns its modules."""

    def write(files):
        for name, text in {"__init__.py": HEAD, **files}.items():
            path = tmp_path / "package" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return structure.read_package(tmp_path / "package")

    return write


def problems(modules, limits=None):
    return structure.check(modules, layers=LAYERS, limits=limits or {})


def test_the_package_keeps_its_rules():
    found = structure.check(structure.read_package(ROOT / "keras_micronets"))
    assert not found, "\n".join(found)


def test_a_sound_package_has_no_problems(make):
    modules = make(
        {
            "top/__init__.py": "from .one import f\n__all__ = ['f']\n",
            "top/one.py": HEAD + "from package.left import g\nimport os\n",
            "left/__init__.py": "from package.left.part.deep import g\n" + HEAD,
            "left/part/__init__.py": HEAD,
            "left/part/deep.py": "def g():\n    from package import base\n" + HEAD,
            "base.py": HEAD,
        }
    )
    assert problems(modules) == []
    assert modules["package.top.one"].imports == {"package.left.part.deep"}
    assert modules["package.left.part.deep"].imports == set()
    assert modules["package.left.part.deep"].uses == {"package.base"}
    assert modules["package.top"].exports == ["f"]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            {"base.py": HEAD + "import package.left", "left.py": HEAD},
            "package.base imports package.left, which is not below it",
        ),
        (
            {"left.py": HEAD + "from .right import x", "right.py": HEAD},
            "package.left imports package.right, which is not below it",
        ),
        (
            {
                "base.py": HEAD + "def f():\n    from package import left",
                "left.py": HEAD,
            },
            "package.base imports package.left, which is not below it",
        ),
        ({"base.py": "from os import path"}, "package.base has no `__all__`"),
        ({"other.py": HEAD}, "package.other is in none of the layers"),
        (
            {"base.py": "__all__ = ['f']\ndef f(x: int, *, y=0) -> None: ..."},
            "package.base.f has no annotation of y.",
        ),
        (
            {
                "base.py": "__all__ = ['A']\n"
                "class A:\n"
                "    size: int\n"
                "    def __init__(self, x: int): ...\n"
                "    def _private(self, x): ...\n"
                "    def public(self, *args): ..."
            },
            "package.base.A.public has no annotation of args, return.",
        ),
        (
            {"base.py": HEAD + "from keras.src import backend"},
            "package.base imports keras.src.backend, which is not permitted",
        ),
        (
            {"base.py": HEAD + "def f():\n    import pickle"},
            "package.base imports pickle, which is not permitted",
        ),
        (
            {
                "left/__init__.py": HEAD,
                "left/one.py": HEAD + "from package.left.two import x",
                "left/two.py": HEAD + "from package.left import one",
            },
            "Imports form a cycle: package.left.",
        ),
        (
            {
                "left/__init__.py": HEAD,
                "left/one.py": HEAD + "from package.left.part import two",
                "left/part/__init__.py": HEAD,
                "left/part/two.py": HEAD,
                "left/part/three.py": HEAD + "import package.left.one",
            },
            "Imports form a cycle: package.left",
        ),
    ],
)
def test_a_broken_rule_is_found(make, files, expected):
    found = problems(make(files))
    assert len(found) == 1, found
    assert found[0].startswith(expected), found


def test_imports_for_type_checkers_are_used_but_do_not_run(make):
    text = HEAD + "from typing import TYPE_CHECKING\n"
    text += "if TYPE_CHECKING:\n    from package import base\n"
    modules = make({"left.py": text, "base.py": HEAD})
    assert modules["package.left"].imports == set()
    assert modules["package.left"].uses == {"package.base"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("files", 6),
        ("lines", 11),
        ("median lines per file", 2),
        ("files under 60 lines", 6),
        ("modules with a single user", 2),
        ("longest import chain", 3),
        ("modules in the largest folder", 3),
        ("public names", 3),
    ],
)
def test_limits(make, name, value):
    modules = make(
        {
            "__init__.py": "_NAMES = {'f': 1}\n__all__ = [*_NAMES]\n__all__ += ['g']\n",
            "top.py": HEAD + "from package.left import two\n",
            "left/__init__.py": "from package.left.one import x\n__all__ = ['x']\n",
            "left/one.py": HEAD,
            "left/two.py": HEAD + "from package.left import x\n",
            "left/three.py": HEAD,
        }
    )
    figure = structure.measure(modules)[name]
    assert figure == value
    assert problems(modules, {name: value}) == []
    assert problems(modules, {name: value - 1}) == [
        f"{name}: expected at most {value - 1:,}, found {figure:,}."
    ]


def test_a_folder_without_a_package_is_rejected(tmp_path):
    with pytest.raises(ValueError, match="the folder of a package"):
        structure.read_package(tmp_path)


def test_command_line(make, tmp_path, capsys):
    make({"base.py": HEAD})
    folder = str(tmp_path / "package")
    before = tmp_path / "before.json"
    assert structure.main(["--json", folder]) == 0
    before.write_text(capsys.readouterr().out)
    assert json.loads(before.read_text())["files"] == 2
    assert structure.main(["--before", str(before), folder]) == 0
    assert "| files | 2 | 2 |" in capsys.readouterr().out
    assert structure.main(["--before", str(BEFORE), folder]) == 0
    assert "| median lines per file | 88 | 1 |" in capsys.readouterr().out
    assert structure.main(["--check", folder]) == 1
    assert "in none of the layers" in capsys.readouterr().out
