import json

import numpy as np
import pytest

from keras_micronets import selection
from keras_micronets.selection import Selection, selection_report


def pool(n_learners=6, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, 40)
    p = rng.dirichlet(np.ones(3), (n_learners, 40))
    p[:, range(40), y] += np.linspace(0.2, 1, n_learners)[:, None]
    return p / p.sum(-1, keepdims=True), y


def chosen(indices=(1, 5), labels=(0, 0, 1, 1, 1, -1), representative="accuracy"):
    return Selection.uniform(
        np.array(indices),
        np.array(labels),
        method="KMeans",
        representative=representative,
    )


NAMES = [f"learner-{i}" for i in range(6)]


def make(**kwargs):
    p, y = pool()
    return selection_report(p, y, chosen((1, 4)), names=NAMES, **kwargs)


def test_rows_hold_the_metrics_of_each_learner():
    p, y = pool()
    report = make(sparsity=[0.5] * 6, n_bytes=range(6), gzip_bytes=[None, *range(5)])
    for i, row in enumerate(report.rows):
        assert (row.index, row.name, row.sparsity) == (i, NAMES[i], 0.5)
        assert row.n_bytes == i
        assert row.gzip_bytes == (i - 1 if i else None)
        assert row.accuracy == selection.accuracy(p[i], y)
        nll = selection.negative_log_likelihood(p[i], y)
        assert row.negative_log_likelihood == nll
        ece = selection.expected_calibration_error(p[i], y)
        assert row.expected_calibration_error == ece
    assert [row.index for row in report.kept] == [1, 4]
    assert [row.cluster for row in report.rows] == [0, 0, 1, 1, 1, -1]
    assert report.n_samples == 40


def test_the_ensemble_is_the_weighted_mean_and_the_sum_of_bytes():
    p, y = pool()
    report = make(n_bytes=[1, 2, 3, 4, 5, 6], gzip_bytes=[1, None, 1, 1, 1, 1])
    mean = (p[1] + p[4]) / 2
    assert report.ensemble["accuracy"] == selection.accuracy(mean, y)
    nll = selection.negative_log_likelihood(mean, y)
    assert report.ensemble["negative_log_likelihood"] == pytest.approx(nll)
    assert report.ensemble["n_bytes"] == 7
    assert report.ensemble["gzip_bytes"] is None
    timed = make(milliseconds=[None, 0.5, 1, 1, 0.25, 1])
    assert timed.ensemble["milliseconds"] == 0.75
    assert timed.rows[0].milliseconds is None
    assert "ms" in str(timed).splitlines()[0].split()
    given = make(ensemble_probabilities=np.eye(3)[y])
    assert given.ensemble["accuracy"] == 1


def test_disagreement_is_the_mean_of_pairs():
    p, y = pool()
    matrix = selection.disagreement(p)
    pairs = [matrix[i, j] for i in range(6) for j in range(i)]
    report = make()
    assert report.disagreement == pytest.approx(np.mean(pairs))
    assert report.disagreement_kept == pytest.approx(matrix[1, 4])
    alone = selection_report(p[:1], y, selection.top_k(p[:1], y, 1), names=["a"])
    assert alone.disagreement is None
    assert "differ" not in str(alone)


def test_reasons():
    p, y = pool()

    def why(choice):
        return [r.why for r in selection_report(p, y, choice, names=NAMES).rows]

    ranked = ["rank 2 of 2", "best of 2", "rank 3 of 3", "rank 2 of 3", "best of 3"]
    assert why(chosen((1, 4))) == [*ranked, "noise"]
    assert why(chosen((0, 1), (0, 1, 1, 1, 1, 1)))[0] == "alone"
    central = why(chosen((0, 3), representative="medoid"))
    assert central[:4] == ["nearest of 2", "not nearest", "not nearest", "nearest of 3"]
    lowest = why(chosen((0, 3), representative="loss"))
    assert lowest[:2] == ["lowest loss of 2", "not lowest loss"]
    best = why(chosen((0, 1), representative="best_cluster"))
    assert best[1:] == ["best cluster", *["other cluster"] * 3, "noise"]
    top = why(selection.top_k(p, y, 2))
    assert sorted(top) == [f"rank {i} of 6" for i in range(1, 7)]
    drawn = selection.random_k(p, y, 2, random_state=0)
    for i, words in enumerate(why(drawn)):
        assert words.startswith("drawn" if i in drawn.indices else "not drawn")


def test_text_is_a_table_with_the_kept_marked():
    report = make(sparsity=[0.5] * 6, gzip_bytes=[1500] * 6)
    text = str(report)
    assert text == repr(report)
    lines = text.splitlines()
    assert lines[0].split() == [
        *("learner", "cluster", "acc.", "NLL", "ECE", "zeros", "gzip", "kB", "why")
    ]
    marked = [line.split()[1] for line in lines if line.startswith("*")]
    assert marked == ["learner-1", "learner-4", "ensemble"]
    assert "50%" in text
    assert "1.5" in text
    assert "Kept (*) 2 of 6 learners by KMeans, representative='accuracy'." in text
    assert "40 samples used for selection: optimistic" in text


def test_long_names_and_many_learners_fit_100_columns():
    p, y = pool(60)
    names = [
        f"a-learner-with-a-very-long-name-{i:04d}-sparsity-0.50" for i in range(60)
    ]
    choice = selection.cluster(p, y, 4, random_state=0)
    kwargs = {"sparsity": [1.0] * 60, "n_bytes": [10**7] * 60}
    text = str(
        selection_report(p, y, choice, names=names, gzip_bytes=[10**6] * 60, **kwargs)
    )
    assert max(map(len, text.splitlines())) <= 100
    assert "The others are in `rows`." in text
    assert len(text.splitlines()) < 15


def test_to_dict_is_json():
    report = make(n_bytes=np.arange(6), sparsity=np.linspace(0, 1, 6))
    values = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert values["rows"][1]["kept"] is True
    assert values["rows"][0]["why"] == "rank 2 of 2"
    assert values["ensemble"]["n_bytes"] == 5
    assert values["method"] == "KMeans"


@pytest.mark.slow
def test_the_map_of_many_learners_shows_the_kept_and_a_sample():
    p, y = pool(330)
    choice = selection.top_k(p, y, 3)
    names = [str(i) for i in range(330)]
    report = selection_report(p, y, choice, names=names)
    assert len(report.on_map) == 300
    assert set(report.kept) <= set(report.on_map)
    hidden = [row for row in report.rows if row.map_y is None]
    assert len(hidden) == 30
    again = selection_report(p, y, choice, names=names)
    assert again.on_map == report.on_map
    many = selection_report(p, y, selection.top_k(p, y, 310), names=names)
    assert len(many.on_map) == 300
    assert all(row.kept for row in many.on_map)


@pytest.mark.parametrize("name", ["sparsity", "n_bytes", "gzip_bytes", "milliseconds"])
def test_columns_of_wrong_length(name):
    with pytest.raises(ValueError, match=f"{name} to have 6 values.*Received: 2"):
        make(**{name: [1, 2]})


def test_names_and_selection_of_wrong_length():
    p, y = pool()
    with pytest.raises(ValueError, match="names to have 6 values"):
        selection_report(p, y, chosen(), names=NAMES[:2])
    with pytest.raises(ValueError, match=r"selection\.labels to have 5 values"):
        selection_report(p[:5], y, chosen(), names=NAMES[:5])
