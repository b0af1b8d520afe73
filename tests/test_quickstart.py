import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from keras_micronets.cli import main
from keras_micronets.quickstart import load_problem, run_quickstart

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def small_problem(tmp_path_factory):
    """Return the path of a few images, as bytes."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "small.npz"
    labels = np.tile(np.arange(3), 40)
    images = rng.integers(0, 60, (120, 8, 8), "uint8") + 60 * labels[:, None, None]
    np.savez(
        path,
        x_train=images[:90].astype("uint8"),
        y_train=labels[:90, None],
        x_test=images[90:].astype("uint8"),
        y_test=labels[90:, None],
    )
    return path


@pytest.fixture(scope="module")
def result(small_problem, tmp_path_factory):
    return run_quickstart(
        load_problem(small_problem),
        tmp_path_factory.mktemp("out"),
        epochs=10,
        n_learners=6,
        n_members=2,
        verbose=0,
    )


def test_digits_are_split_into_three_parts():
    problem = load_problem(seed=1)

    sizes = [len(y) for _, y in (problem.train, problem.choose, problem.test)]
    assert sum(sizes) == 1797
    assert sizes[1] == pytest.approx(0.2 * sum(sizes[:2]), abs=1)
    assert problem.train[0].shape[1:] == (8, 8, 1)
    assert problem.n_classes == 10


def test_parts_do_not_overlap():
    problem = load_problem(seed=0)

    images = [x.tobytes() for part in (problem.train, problem.choose) for x in part[0]]
    assert not set(images) & {x.tobytes() for x in problem.test[0]}


def test_split_of_a_file_keeps_its_test_part(small_problem):
    first, second = load_problem(small_problem), load_problem(small_problem, seed=1)

    assert not np.array_equal(first.train[0], second.train[0])
    np.testing.assert_array_equal(first.test[0], second.test[0])


@pytest.mark.slow
def test_table_has_every_row(result):
    names = [score.name for score in result.scores]

    assert names == [
        "baseline, float32",
        "member 0, int8",
        "member 1, int8",
        "ensemble before int8",
        "ensemble, int8",
    ]
    text = str(result)
    assert all(name in text for name in names)


@pytest.mark.slow
def test_scores_are_those_of_the_files(result):
    baseline, *members, before, after = result.scores
    bundle_models = sorted(
        path.stat().st_size for path in Path(result.bundle).glob("*.tflite")
    )

    assert result.n_learners == 6
    assert len(set(result.sparsities)) > 1
    assert sorted(member.n_bytes for member in members) == bundle_models
    assert after.n_bytes == sum(bundle_models)
    assert before.n_bytes > after.n_bytes
    assert all(score.latency > 0 for score in (baseline, *members, after))
    assert all(0 <= score.accuracy <= 1 for score in result.scores)


@pytest.mark.slow
def test_result_is_json(result):
    assert json.loads(json.dumps(result.to_json()))["n_learners"] == 6


def test_rejects_a_directory_that_is_not_empty(small_problem, tmp_path):
    (tmp_path / "mine.txt").write_text("precious")

    with pytest.raises(ValueError, match="empty directory"):
        run_quickstart(load_problem(small_problem), tmp_path, epochs=10, n_learners=6)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_too_few_epochs(small_problem, tmp_path):
    problem = load_problem(small_problem)

    with pytest.raises(ValueError, match="at least 10 epochs"):
        run_quickstart(problem, tmp_path, epochs=4, n_learners=6, verbose=0)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x_train": np.zeros((4, 8, 8))}, "without y_train, x_test, y_test"),
        (
            dict.fromkeys(("x_train", "x_test"), np.zeros((40, 8)))
            | dict.fromkeys(("y_train", "y_test"), np.arange(40) % 2),
            r"shape \(40, 8\)",
        ),
    ],
)
def test_rejects_other_files(tmp_path, capsys, arrays, message):
    path = tmp_path / "data.npz"
    np.savez(path, **arrays)

    with pytest.raises(ValueError, match=message):
        load_problem(path)
    assert main(["quickstart", "--data", str(path)]) == 2
    assert capsys.readouterr().err.startswith("error: Expected")


def test_command_shows_its_help():
    shown = subprocess.run(
        [sys.executable, "-m", "keras_micronets.cli", "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert "quickstart" in shown
