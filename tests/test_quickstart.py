import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from keras_micronets import __version__
from keras_micronets.cli import main
from keras_micronets.quickstart import (
    QuickstartResult,
    Score,
    load_problem,
    run_quickstart,
)
from keras_micronets.quickstart.problem import _noisy_digits
from keras_micronets.quickstart.result import recommend
from keras_micronets.quickstart.training import _EpochBar

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
        epochs=4,
        n_learners=3,
        n_members=2,
        verbose=0,
    )


def test_digits_are_split_into_three_parts():
    problem = load_problem(seed=1)

    sizes = [len(y) for _, y in (problem.train, problem.choose, problem.test)]
    assert sum(sizes) == 1797
    assert sizes[1] == pytest.approx(0.25 * sum(sizes[:2]), abs=1)
    assert problem.train[0].shape[1:] == (8, 8, 1)
    assert problem.n_classes == 10


def test_parts_do_not_overlap():
    problem = load_problem(seed=0)

    images = [x.tobytes() for part in (problem.train, problem.choose) for x in part[0]]
    assert not set(images) & {x.tobytes() for x in problem.test[0]}


def test_labels_are_wrong_in_the_training_data_only():
    y = load_digits().target
    clean, clean_test = train_test_split(y, test_size=0.5, random_state=3, stratify=y)
    x_train, y_train, x_test, y_test = _noisy_digits(seed=3)

    assert np.mean(y_train != clean) == pytest.approx(0.2, abs=0.04)
    np.testing.assert_array_equal(y_test, clean_test)
    assert {*y_train} == {*range(10)}
    for x in (x_train, x_test):
        assert x.min() == 0
        assert x.max() == 1
        # Dead rows and, in the others, dead or clipped pixels.
        assert 0.4 < np.mean((x == 0).all(2).any(1)) < 0.7


def test_faults_follow_the_seed():
    one, same, other = load_problem(seed=1), load_problem(seed=1), load_problem(seed=2)

    np.testing.assert_array_equal(one.train[0], same.train[0])
    np.testing.assert_array_equal(one.train[1], same.train[1])
    assert not np.array_equal(one.train[0], other.train[0])


def test_split_of_a_file_keeps_its_test_part(small_problem):
    first, second = load_problem(small_problem), load_problem(small_problem, seed=1)

    assert not np.array_equal(first.train[0], second.train[0])
    np.testing.assert_array_equal(first.test[0], second.test[0])


@pytest.mark.slow
def test_table_has_every_row(result):
    names = [score.name for score in result.scores]

    assert names == [
        "baseline, float32",
        "baseline, int8",
        "regularised, int8",
        "regularised, 4 x longer, int8",
        "best single learner, int8",
        "distilled, int8",
        "ensemble, int8",
    ]
    text = str(result)
    assert all(name in text for name in names)


@pytest.mark.slow
def test_costs_count_all_training(result):
    # Three learners, and the distilled network after them.
    assert [score.cost for score in result.scores] == [1, 1, 1, 4, 3, 4, 3]


@pytest.mark.slow
def test_scores_are_those_of_the_files(result):
    *single, ensemble = result.scores
    folder = Path(result.bundle).parent
    bundle_models = [
        path.stat().st_size for path in Path(result.bundle).glob("*.tflite")
    ]

    assert result.n_learners == 3
    assert 1 <= len(bundle_models) <= 2
    assert ensemble.n_bytes == sum(bundle_models)
    assert sorted(score.n_bytes for score in single) == sorted(
        path.stat().st_size for path in folder.glob("*.tflite")
    )
    assert single[0].n_bytes > 2 * single[1].n_bytes
    assert [score.sparsity > 0.2 for score in result.scores] == [
        *4 * [False],
        True,
        False,
        True,
    ]
    assert all(score.latency > 0 for score in result.scores)


@pytest.mark.slow
def test_gain_is_that_over_the_best_control(result):
    accuracy = {score.name: score.accuracy for score in result.scores}
    controls = [score.accuracy for score in result.scores if score.role == "control"]

    assert accuracy[result.best_control] == max(controls)
    assert result.gain == pytest.approx(accuracy[result.recommended] - max(controls))


@pytest.mark.slow
def test_result_is_json(result):
    assert json.loads(json.dumps(result.to_json()))["n_learners"] == 3


def test_recommends_the_result_with_the_lowest_loss():
    losses = {
        "control": np.array([1.0, 1.2, 1.1, 1.3]),
        "one": np.array([0.5, 0.6, 0.7, 0.6]),
        "four": np.array([0.1, 0.2, 0.3, 0.2]),
    }

    assert recommend(losses, ["control"])[0] == "four"


def test_recommends_a_control_that_is_clearly_better():
    # The excess of the result is 0.1 on the mean, and its standard error 0.87 / 2.
    losses = {
        "result": np.array([1.0, 1.2, -0.6, 1.2]),
        "control": np.array([0.6, 0.6, 0.6, 0.6]),
    }
    name, reason = recommend(losses, ["control"])

    assert name == "result"
    assert "+0.100 ± 0.436" in reason
    losses["control"] -= 0.4
    assert recommend(losses, ["control"])[0] == "control"


def test_table_fits_100_columns():
    names = ("regularised, 25 x longer, int8", "best single learner, int8")
    scores = [
        Score(
            name=name,
            role="control",
            cost=25,
            sparsity=0.5,
            accuracy=0.98765,
            nll=12.345,
            calibrated_nll=1.234,
            n_networks=1,
            n_bytes=1_234_567,
            gzip_bytes=987_654,
            held_out_loss=1.0,
            latency=12.345,
        )
        for name in names
    ]
    result = QuickstartResult(
        problem="images",
        epochs=1,
        seed=0,
        n_learners=24,
        scores=tuple(scores),
        recommended=names[1],
        reason="it is small",
        best_control=names[0],
        gain=0.0123,
        gain_error=0.004,
        bundle="bundle",
    )

    lines = str(result).splitlines()
    assert max(map(len, lines)) <= 100
    assert "+1.2% (standard error 0.4%)" in str(result)


def test_bar_shows_the_latest_values(capsys):
    bar = _EpochBar(2)
    bar.on_epoch_end(0, {"loss": 4.0, "accuracy": 0.5, "learning_rate": 0.1})
    bar.on_epoch_end(1, {"loss": 2.0, "accuracy": 0.75, "learning_rate": 0.1})

    last = capsys.readouterr().out.split("2/2")[-1]
    assert "loss: 2.0000" in last
    assert "accuracy: 0.7500" in last
    assert "learning_rate" not in last


def test_rejects_a_directory_that_is_not_empty(small_problem, tmp_path):
    (tmp_path / "mine.txt").write_text("precious")

    with pytest.raises(ValueError, match="empty directory"):
        run_quickstart(load_problem(small_problem), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--members", "5"], "at most as many members as learners"),
        (["--epochs", "0"], "epochs to be 1 or more"),
        (["--learners", "0", "--members", "0"], "n_learners to be 1 or more"),
    ],
)
def test_refuses_bad_numbers_before_training(tmp_path, capsys, flags, message):
    out = tmp_path / "out"

    assert main(["quickstart", "--out", str(out), *flags]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.out == ""
    assert not out.exists()


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


def run_command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "keras_micronets.cli", *arguments],
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_command_shows_its_help_and_version():
    assert "quickstart" in run_command("--help")
    assert run_command("--version").split()[-1] == __version__


def test_help_shows_the_defaults_of_the_function(capsys):
    with pytest.raises(SystemExit):
        main(["quickstart", "--help"])
    text = " ".join(capsys.readouterr().out.split())

    defaults = inspect.signature(run_quickstart).parameters
    for flag, name in (
        ("epochs", "epochs"),
        ("learners", "n_learners"),
        ("members", "n_members"),
        ("seed", "seed"),
    ):
        shown = re.search(rf"--{flag} N [^(]+\(default: (\d+)\)", text)
        assert shown
        assert int(shown[1]) == defaults[name].default
