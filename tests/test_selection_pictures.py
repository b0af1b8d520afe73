import builtins
import io
import subprocess
import sys

import numpy as np
import pytest

from keras_micronets.selection import (
    Selection,
    cluster,
    plot_accuracy_bytes,
    plot_map,
    selection_report,
    top_k,
)

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")

PLOTS = [plot_map, plot_accuracy_bytes]


def pool(n_learners=14):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 40)
    p = rng.dirichlet(np.ones(3), (n_learners, 40))
    p[:, range(40), y] += np.linspace(0.2, 1, n_learners)[:, None]
    return p / p.sum(-1, keepdims=True), y


def clustered(p, y, n_members):
    return cluster(p, y, n_members, random_state=0)


def report(n_learners=14, choose=clustered, n_members=4, **kwargs):
    p, y = pool(n_learners)
    kwargs = {"n_bytes": [2000 + 100 * i for i in range(n_learners)], **kwargs}
    names = [f"learner-{i}" for i in range(n_learners)]
    return selection_report(p, y, choose(p, y, n_members), names=names, **kwargs)


def words(figure):
    return [text.get_text() for text in figure.axes[0].texts if text.get_text()]


def rendered(figure):
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


@pytest.mark.parametrize("plot", PLOTS)
def test_renders_and_names_the_kept_inside_the_frame_without_overlap(plot):
    made = report()
    figure = plot(made)
    assert rendered(figure).startswith(b"\x89PNG")
    names = [text.split("\n")[0] for text in words(figure)]
    assert {row.name for row in made.kept} <= set(names)
    texts = [t for t in figure.axes[0].texts if t.get_text()]
    boxes = [text.get_window_extent() for text in texts]
    frame = figure.axes[0].bbox
    assert all(frame.contains(*b.min) and frame.contains(*b.max) for b in boxes)
    pairs = [(a, b) for i, a in enumerate(boxes) for b in boxes[:i]]
    assert not any(a.overlaps(b) for a, b in pairs)


@pytest.mark.parametrize("plot", PLOTS)
def test_draws_on_given_axes(plot):
    figure = matplotlib.figure.Figure()
    ax = figure.subplots(1, 2)[1]
    assert plot(report(), ax=ax) is figure
    assert len(ax.collections) > 14
    assert rendered(figure)


@pytest.mark.parametrize("plot", PLOTS)
@pytest.mark.parametrize("n_learners", [1, 2])
def test_few_learners(plot, n_learners):
    assert rendered(plot(report(n_learners, top_k, 1)))


@pytest.mark.parametrize("plot", PLOTS)
def test_many_kept_and_noise(plot):
    p, y = pool(40)
    labels = np.arange(40) % 13 - 1
    choice = Selection.uniform(
        np.arange(1, 40, 2), labels, method="x", representative="best_cluster"
    )
    names = ["a-very-long-name-of-a-learner" * 2] * 40
    made = selection_report(p, y, choice, names=names, n_bytes=[1] * 20 + [900] * 20)
    assert rendered(plot(made))


def test_a_star_stands_at_the_sum_of_the_members_gzip_bytes():
    made = report(gzip_bytes=[1000] * 14)
    figure = plot_accuracy_bytes(made)
    offsets = np.array([c.get_offsets()[0] for c in figure.axes[0].collections])
    star = [4.0, 100 * made.ensemble["accuracy"]]
    assert np.isclose(offsets, star).all(axis=1).any()
    assert any("ensemble of 4" in text for text in words(figure))
    assert "after gzip" in figure.axes[0].get_xlabel()


def test_learners_of_unknown_size_are_left_out():
    made = report()
    kept = made.kept[0].index
    partly = report(n_bytes=[None if i == kept else 1000 for i in range(14)])
    figure = plot_accuracy_bytes(partly)
    assert rendered(figure)
    assert not any("ensemble" in text for text in words(figure))
    assert len(figure.axes[0].collections) == 13 + 3


def test_no_sizes_at_all():
    with pytest.raises(ValueError, match="file sizes"):
        plot_accuracy_bytes(report(n_bytes=None))


@pytest.mark.parametrize("plot", PLOTS)
def test_without_matplotlib(plot, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    made = report()
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install keras-micronets\[plots\]"):
        plot(made)


def test_selection_imports_neither_keras_nor_matplotlib():
    code = "import sys, keras_micronets.selection; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    loaded = {name.split(".")[0] for name in run.stdout.split()}
    assert not loaded & {"keras", "tensorflow", "matplotlib"}
