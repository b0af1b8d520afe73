"""Check the files that describe and keep the repository."""

import inspect
import re
import tomllib
from pathlib import Path

import pytest

import keras_micronets

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.glob("*.md"))]
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)")


# Words that readers of other libraries do not know in this sense, and turns of phrase
# that have to be read twice.
AVOIDED = ("anew", "of whose", "puts out", "told of", "twins?", "unasked", "whatever")


def nav_paths(items):
    for item in items:
        for value in item.values():
            yield from [value] if isinstance(value, str) else nav_paths(value)


def test_every_page_is_in_the_navigation():
    settings = tomllib.loads((ROOT / "zensical.toml").read_text())
    pages = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}

    assert set(nav_paths(settings["project"]["nav"])) == pages


def test_every_public_module_has_an_api_page():
    pages = "".join(path.read_text() for path in (DOCS / "api").glob("*.md"))
    names = [f"::: keras_micronets.{name}\n" for name in public_modules()]
    assert not [name for name in names if name not in pages]


def public_modules(module=keras_micronets, path=""):
    """Yield the modules that users reach through `__all__`, by the path to them."""
    for name in getattr(module, "__all__", ()):
        value = getattr(module, name)
        if inspect.ismodule(value):
            yield f"{path}{name}"
            yield from public_modules(value, f"{path}{name}.")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    missing = [
        x for x in LINK.findall(path.read_text()) if not (path.parent / x).exists()
    ]
    assert not missing


def test_words_are_plain():
    pattern = re.compile(rf"\b(?:{'|'.join(AVOIDED)})\b", re.IGNORECASE)
    texts = [*DOCUMENTS, *sorted(ROOT.glob("keras_micronets/**/*.py"))]
    changelog = ROOT / "CHANGELOG.md"  # names of earlier versions
    found = {
        f"{path.relative_to(ROOT)}: {word}"
        for path in texts
        if path != changelog
        for word in pattern.findall(path.read_text())
    }
    assert not found


def test_contributing_names_files_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    names = re.findall(r"`((?:keras_micronets|tests|docs)/[\w./]+)`", text)
    names += re.findall(r"`([\w./]+\.(?:py|md|cff|cfg|toml))`", text)
    known = {path.name for path in ROOT.glob("keras_micronets/**/*.py")}
    missing = [x for x in names if not (ROOT / x).exists() and x not in known]

    assert names
    assert not missing


def test_versions_agree():
    assert (
        f'version: "{keras_micronets.__version__}"'
        in (ROOT / "CITATION.cff").read_text()
    )


def test_configuration_files_are_valid():
    yaml = pytest.importorskip("yaml")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    workflow = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())

    assert "arXiv:2004.04710" in str(citation["references"])
    assert [hook["id"] for hook in hooks["repos"][0]["hooks"]] == [
        "ruff-check",
        "ruff-format",
        "pyright",
    ]
    matrix = workflow["jobs"]["tests"]["strategy"]["matrix"]
    assert matrix["python-version"] == ["3.11", "3.12", "3.13"]


def test_changelog_begins_with_what_is_unreleased():
    text = (ROOT / "CHANGELOG.md").read_text()
    assert re.findall(r"^## (.*)$", text, re.MULTILINE)[0] == "Unreleased"
