import builtins
import io
import subprocess
import sys

import numpy as np
import pytest

from keras_micronets.selection import (
    Selection,
    cluster,
    disagreement,
    expected_calibration_error,
    plot_accuracy_bytes,
    plot_curves,
    plot_dendrogram,
    plot_disagreement,
    plot_map,
    plot_reliability,
    random_k,
    scores_by_members,
    selection_report,
    top_k,
)
from keras_micronets.selection.report.pair_plots import spread
from keras_micronets.selection.report.plots import reliability, size_key

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


def tree(made, ax=None):
    return plot_dendrogram(made, disagreement(pool(len(made.rows))[0]), ax)


def matrix(made, ax=None):
    return plot_disagreement(made, disagreement(pool(len(made.rows))[0]), ax)


def curves(made, ax=None):
    p, y = pool(len(made.rows))
    methods = {"top_k": top_k, "$random$": random_k}
    return plot_curves(scores_by_members(p, y, methods, n_resamples=3), ax=ax)


def honesty(made, ax=None):
    p, y = pool(len(made.rows))
    return plot_reliability({"first": p[0], "mean": p.mean(axis=0)}, y, ax)


ALL = [*PLOTS, tree, matrix, curves, honesty]


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


@pytest.mark.parametrize("plot", ALL)
def test_draws_on_given_axes(plot):
    figure = matplotlib.figure.Figure()
    ax = figure.subplots(1, 2)[1]
    assert plot(report(), ax=ax) is figure
    assert ax.collections or ax.images
    assert rendered(figure)


@pytest.mark.parametrize("plot", ALL)
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
    figure = plot(made)
    assert rendered(figure)
    ax = figure.axes[0]
    rings = ax.transData.transform(ax.collections[2].get_offsets())
    boxes = [text.get_window_extent() for text in ax.texts if text.get_text()]
    assert not any(box.contains(*ring) for box in boxes for ring in rings)


def test_a_star_stands_at_the_sum_of_the_members_gzip_bytes():
    made = report(gzip_bytes=[1000] * 14)
    figure = plot_accuracy_bytes(made)
    offsets = np.concatenate([c.get_offsets() for c in figure.axes[0].collections])
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
    others, kept, rings = (c.get_offsets() for c in figure.axes[0].collections)
    assert (len(others), len(kept), len(rings)) == (10, 3, 3)


def test_no_sizes_at_all():
    with pytest.raises(ValueError, match="file sizes"):
        plot_accuracy_bytes(report(n_bytes=None))


@pytest.mark.parametrize("plot", ALL)
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


@pytest.mark.parametrize("plot", [*PLOTS, tree, matrix])
def test_names_are_no_formulas(plot):
    p, y = pool(3)
    names = ["$\\frac$"] * 3
    made = selection_report(p, y, top_k(p, y, 1), names=names, n_bytes=[1000] * 3)
    figure = plot(made)
    assert rendered(figure)
    assert any(names[0] in text for text in words(figure))


def test_the_tree_joins_at_mean_disagreements():
    made = report(3, top_k, 1)
    distances = np.array([[0, 0.1, 0.4], [0.1, 0, 0.6], [0.4, 0.6, 0]])
    ax = plot_dendrogram(made, distances).axes[0]
    joints = sorted(round(float(max(line.get_xdata())), 9) for line in ax.lines)
    assert joints == [10, 50]
    assert {row.name for row in made.rows} == set(words(ax.figure))


def test_the_tree_of_many_learners_counts_those_of_a_branch():
    made = report(60, top_k, 2)
    figure = tree(made)
    assert len(figure.axes[0].lines) == 39
    assert len(words(figure)) <= 2
    assert all(
        text.split(" + ")[0] in [r.name for r in made.kept] for text in words(figure)
    )


def test_the_matrix_lies_in_the_order_of_clusters_with_noise_last():
    p, y = pool(6)
    labels = np.array([1, -1, 0, 1, 0, -1])
    chosen = Selection.uniform(np.array([2, 3]), labels, method="x")
    made = selection_report(p, y, chosen, names=list("abcdef"))
    distances = disagreement(p)
    ax = plot_disagreement(made, distances).axes[0]
    shown = np.asarray(ax.images[0].get_array())
    order = sorted(range(6), key=lambda i: (labels[i] < 0, labels[i]))
    for start in (0, 2, 4):
        pair = order[start], order[start + 1]
        assert shown[start, start + 1] == pytest.approx(100 * distances[pair])
    assert sorted(words(ax.figure)) == ["c", "d"]
    assert len(ax.lines) == 2 * 3


@pytest.mark.parametrize("plot", [plot_dendrogram, plot_disagreement])
def test_disagreements_of_another_pool(plot):
    with pytest.raises(ValueError, match=r"shape \(14, 14\).*Received: shape \(3, 3\)"):
        plot(report(), np.zeros((3, 3)))


def test_learners_that_never_disagree():
    p, y = pool(1)
    p = p.repeat(4, 0)
    made = selection_report(p, y, top_k(p, y, 2), names=list("abcd"))
    for figure in (
        plot_dendrogram(made, np.zeros((4, 4))),
        plot_disagreement(made, np.zeros((4, 4))),
    ):
        assert rendered(figure)


def test_curves_are_means_and_bands_percentiles():
    p, y = pool()
    scores = scores_by_members(p, y, {"a": random_k}, n_members=[1, 12], n_resamples=9)
    ax = plot_curves(scores, "negative_log_likelihood").axes[0]
    line, best, everyone = ax.lines
    values = scores.negative_log_likelihood["a"]
    np.testing.assert_array_equal(line.get_xdata(), [1, 12])
    np.testing.assert_allclose(line.get_ydata(), values.mean(axis=0))
    for other, of in ((best, scores.best_learner), (everyone, scores.mean_of_all)):
        expected = of["negative_log_likelihood"].mean()
        np.testing.assert_allclose(other.get_ydata(), expected)
    band = ax.collections[0].get_paths()[0].vertices
    at_one = band[band[:, 0] == 1, 1]
    ends = np.percentile(values[:, 0], [10, 90])
    np.testing.assert_allclose([at_one.min(), at_one.max()], ends)
    with pytest.raises(ValueError, match="metric='age'"):
        plot_curves(scores, "age")


def test_reliability_against_a_slow_version_and_the_calibration_error():
    p, y = pool()
    p = p[3]
    sure, right, share = reliability(p, y, 5)
    result = []
    for k in range(5):
        rows = [i for i in range(40) if k / 5 < p[i].max() <= (k + 1) / 5]
        if rows:
            hits = [p[i].argmax() == y[i] for i in rows]
            mean = np.mean([p[i].max() for i in rows])
            result.append((mean, np.mean(hits), len(rows) / 40))
    np.testing.assert_allclose(np.transpose([sure, right, share]), result)
    error = expected_calibration_error(p, y, n_bins=5)
    assert np.abs(sure - right) @ share == pytest.approx(error)
    with pytest.raises(ValueError, match="n_bins=0"):
        reliability(p, y, 0)


def test_positions_are_moved_apart_no_more_than_needed():
    np.testing.assert_allclose(spread(np.array([20.0, 80]), 10, 100), [20, 80])
    np.testing.assert_allclose(spread(np.array([50.0, 50]), 10, 100), [45, 55])
    np.testing.assert_allclose(spread(np.array([0.0, 1]), 10, 100), [5, 15])
    np.testing.assert_allclose(spread(np.array([98.0, 99]), 10, 100), [85, 95])
    random = np.random.default_rng(0)
    for _ in range(20):
        places = spread(np.sort(random.uniform(0, 100, 9)), 10, 100)
        assert (np.diff(places) > 10 - 1e-9).all()
        assert places.min() >= 5 - 1e-9
        assert places.max() <= 95 + 1e-9


def test_selection_imports_neither_keras_nor_matplotlib():
    code = "import sys, keras_micronets.selection; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    loaded = {name.split(".")[0] for name in run.stdout.split()}
    assert not loaded & {"keras", "tensorflow", "matplotlib"}


def test_the_sizes_that_are_known_of_most_learners_are_drawn():
    some = [1000, *[None] * 13]
    made = report(gzip_bytes=some, n_bytes=[2000] * 14)
    assert size_key(made) == "n_bytes"
    assert size_key(report(gzip_bytes=some, n_bytes=None)) == "gzip_bytes"
    assert size_key(report(gzip_bytes=[1] * 14, n_bytes=[2] * 14)) == "gzip_bytes"
