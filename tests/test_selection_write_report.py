"""The content of the report page, without a browser."""

import builtins
import html
from html.parser import HTMLParser

import numpy as np
import pytest
from selection_cases import pool

from keras_micronets.selection import METHODS, Selection, accuracy, top_k, write_report
from keras_micronets.selection.report.page_content import compared_methods

matplotlib = pytest.importorskip("matplotlib")

EVIL = "<script>alert('x')</script>$\\frac$ & \"id=\" \x00"
SHOWN = EVIL.replace("\x00", "\ufffd")
FIGURES = ["map", "tree", "matrix", "accuracy", "likelihood", "reliability", "bytes"]


def uncertain(p, y, n_members, *, random_state):
    return Selection.uniform([0], np.zeros(len(p), int), method="within_budget")


class Page(HTMLParser):
    """The ids, references, figures and texts of a page; fails on unclosed tags."""

    VOID = ("meta", "link")

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.figures, self.cells = [], [], [], [], []
        self.tags, self.texts = [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        if "id" in values:
            self.ids.append(values["id"])
        if tag == "figure":
            self.figures.append(values["id"])
        for key in ("href", "src", "clip-path", "aria-labelledby", "aria-describedby"):
            if key in values:
                self.links.append(values[key])

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))


def write(path, p, y, chosen, **kwargs):
    return write_report(path, p, y, chosen, n_resamples=2, **kwargs).read_text("utf-8")


@pytest.fixture(scope="module")
def inputs():
    p, y = pool(0, 7, 40)
    labels = np.array([0, 0, 1, 1, 1, -1, 0, 1, 1])
    chosen = Selection.uniform(
        np.array([1, 4]), labels, method="KMeans", representative="accuracy"
    )
    return p, y, chosen


@pytest.fixture(scope="module")
def text(inputs, tmp_path_factory):
    names = ["plain", EVIL, *"cdefghi"]
    path = tmp_path_factory.mktemp("page") / "report.html"
    return write(path, *inputs, names=names, n_bytes=[1000] * 9, title=EVIL[:20])


def test_is_well_formed_and_every_id_is_there_once(text):
    page = Page(text)
    assert page.figures == FIGURES
    assert len(page.ids) == len(set(page.ids)) > 100
    assert "main" in page.tags
    assert "script" not in page.tags
    for link in page.links:
        target = link.removeprefix("url(").removesuffix(")").removeprefix("#")
        assert link.startswith("data:") or target in page.ids, link


def test_needs_nothing_else(text):
    for sign in ("http:", "https:", "@import", "<!DOCTYPE svg", "<metadata", "Date"):
        assert sign not in text, sign


def test_names_and_title_are_text(text):
    page = Page(text)
    heads = [data for tag, data in page.texts if tag in ("th", "h1", "title")]
    assert SHOWN in heads
    assert heads.count(EVIL[:20]) == 2
    short = [data for tag, data in page.texts if tag == "text" and "<script>" in data]
    assert len(short) >= 3  # in the map, the tree, the matrix
    assert html.escape(SHOWN, quote=False) in text


def test_the_summary_has_the_kept_and_their_scores(text, inputs):
    p, y, _ = inputs
    for share in (accuracy(p[[1, 4]].mean(axis=0), y), accuracy(p, y).max()):
        assert f"{share:.1%} (NLL" in text
    assert f"{accuracy(p.mean(axis=0), y):.1%} (NLL" in text
    assert "2 of 9 learners are kept, selected by KMeans" in text
    assert "on 40 samples" in text


def test_the_kept_come_first(text):
    rows = [data for tag, data in Page(text).texts if tag == "th"]
    learners = rows[rows.index("why") + 1 :]
    assert set(learners[:2]) == {SHOWN, "e"}


def test_the_same_input_gives_the_same_bytes(text, inputs, tmp_path):
    names = ["plain", EVIL, *"cdefghi"]
    known = {"names": names, "n_bytes": [1000] * 9, "title": EVIL[:20]}
    with matplotlib.rc_context({"lines.linewidth": 9, "lines.markersize": 30}):
        assert write(tmp_path / "again.html", *inputs, **known) == text
    assert [path.name for path in tmp_path.iterdir()] == ["again.html"]
    assert write(tmp_path / "other.html", *inputs, **known, random_state=1) != text


def test_unknown_sizes_leave_their_pictures_out(inputs, tmp_path):
    page = write(tmp_path / "page.html", *inputs)
    assert Page(page).figures == FIGURES[:-1]
    assert "gzip" not in page.replace("gzip_bytes", "")
    assert ">learner 0<" in page
    timed = write(tmp_path / "timed.html", *inputs, milliseconds=[0.5] * 9)
    assert Page(timed).figures == FIGURES[:-1]
    assert "together" in timed


@pytest.mark.parametrize(
    ("n_learners", "n_kept", "label"), [(1, 1, 0), (2, 1, 0), (2, 2, 0), (3, 1, -1)]
)
def test_small_pools_and_noise(n_learners, n_kept, label, tmp_path):
    p, y = pool(3, n_learners, 9, copies=False)
    labels = np.full(n_learners, label)
    chosen = Selection.uniform(np.arange(n_kept), labels, method="mine")
    assert Page(write(tmp_path / "page.html", p, y, chosen)).figures == FIGURES[:-1]


def test_one_sample_cannot_be_split(tmp_path):
    p, y = pool(3, 4, 1)
    page = write(tmp_path / "page.html", p, y, top_k(p, y, 2))
    assert Page(page).figures == FIGURES[:3]


def test_given_methods_members_and_temperature(inputs, tmp_path):
    seen = []

    def mine(p, y, n_members=4, *, random_state=None):
        seen.append(n_members)
        return top_k(p, y, n_members)

    given = {"methods": {"my $way$": mine}, "n_members": [1, 5], "temperature": 1.5}
    page = write(tmp_path / "page.html", *inputs, **given)
    assert set(seen) == {1, 5}
    assert "my $way$" in page
    assert "The temperature is 1.50, on all samples" in page
    p, y, selection = inputs
    plain = p[selection.indices].mean(axis=0)
    powers = np.maximum(plain, 1e-7).astype("float64") ** (1 / 1.5)
    powers /= powers.sum(axis=-1, keepdims=True)
    before, after = (
        f"{-np.log(np.maximum(q[np.arange(len(y)), y], 1e-7)).mean():.3f}"
        for q in (plain, powers)
    )
    assert before != after
    assert f"1.50 takes the ensemble&#x27;s NLL from {before} to {after}" in page
    assert f"(NLL {after}, ECE " in page


@pytest.mark.parametrize(
    "choose", [*map(METHODS.get, sorted(METHODS.keys() - {"auto"})), uncertain]
)
def test_finds_the_method_that_chose(choose):
    p, y = pool(5, 9, 40)
    chosen = choose(p, y, 3, random_state=0)
    result = compared_methods(chosen)
    assert {"greedy", "random_k"} - {chosen.method.split()[0]} <= set(result)
    if choose is uncertain:
        assert set(result) == {"greedy", "top_k", "random_k"}
    elif chosen.method != "AgglomerativeClustering":
        again = next(iter(result.values()))(p, y, 3, random_state=0)
        assert again.method == chosen.method
        assert again.representative == chosen.representative


@pytest.mark.slow
def test_a_large_pool_is_cut_with_a_note(tmp_path):
    p, y = pool(0, 520, 6, copies=False)
    page = write(tmp_path / "page.html", p, y, top_k(p, y, 2), n_members=[1, 2])
    assert "320 of 520 are left out" in page
    assert "Shown are 300 of 520 learners" in page
    assert "Selected from a random sample of 500 of 520 learners" in page


def test_a_failure_leaves_no_files(inputs, tmp_path):
    with pytest.raises(ValueError, match="names to have 9 values"):
        write(tmp_path / "page.html", *inputs, names=["a"])
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write(tmp_path / "folder", *inputs)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_without_matplotlib(inputs, tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install keras-micronets\[plots\]"):
        write(tmp_path / "page.html", *inputs)
    assert not list(tmp_path.iterdir())
