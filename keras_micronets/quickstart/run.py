"""The steps of the quickstart."""

import functools
import importlib.util
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from keras_micronets import layers, selection
from keras_micronets.edge.bench import interleaved_medians
from keras_micronets.edge.member import Member
from keras_micronets.edge.runner import EnsembleRunner
from keras_micronets.ensemble.pruner import EnsemblePruner
from keras_micronets.export import export_tflite
from keras_micronets.export.flatbuffer import gzip_size
from keras_micronets.export.subprocess_converter import check_converter
from keras_micronets.learners import LearnerPool
from keras_micronets.quickstart.problem import Problem
from keras_micronets.quickstart.result import QuickstartResult, Score, recommend
from keras_micronets.quickstart.training import (
    train_learners,
    train_network,
    train_student,
)
from keras_micronets.selection.metrics import standard_error

__all__ = ["run_bundle", "run_quickstart"]


def run_quickstart(
    problem: Problem,
    directory: str | os.PathLike,
    *,
    epochs: int = 60,
    n_learners: int = 4,
    n_members: int = 4,
    seed: int = 0,
    verbose: int = 1,
) -> QuickstartResult:
    """Run the full pipeline, from training to the predictions of a bundle.

    There are four controls: the baseline in float32 and in int8, the baseline with the
    regularisation that the learners have, and the same trained for as long as all
    learners and the distilled network together.

    Args:
        problem: The data, as returned by `load_problem`.
        directory: New or empty directory for the pool, the files and the bundle.
        epochs: Integer, epochs of the baseline, and of each learner. Defaults to `60`.
        n_learners: Integer, learners that are trained side by side. Defaults to `4`.
        n_members: Integer, the most accurate learners, which form the ensemble.
            Defaults to `4`.
        seed: Integer. Defaults to `0`.
        verbose: Integer, 1 to show progress, 0 for no output. Defaults to `1`.

    Raises:
        ValueError: If the directory is not empty, a number is below 1, there are fewer
            learners than members, or TensorFlow is not installed. Nothing is trained
            then.
    """
    directory = Path(directory)
    _check(directory, epochs=epochs, n_learners=n_learners, n_members=n_members)
    say = functools.partial(print, flush=True) if verbose else lambda _: None
    train: dict[str, Any] = {"epochs": epochs, "seed": seed, "verbose": verbose}
    n_units = n_learners + 1  # the cost of the distilled network, in baselines
    say(f"{problem.name}: {_sizes(problem)}")
    say(f"1/5 Train the controls: plain, regularised, and {n_units} times longer")
    plain = train_network(problem, **train)
    regularized = train_network(problem, regularize=True, **train)
    longer = train_network(
        problem, regularize=True, **{**train, "epochs": n_units * epochs}
    )
    say(f"2/5 Train {n_learners} sparse learners side by side, in one fit")
    pool = LearnerPool(directory / "pool")
    train_learners(problem, pool, n_learners=n_learners, **train)
    say(f"3/5 Select {n_members} of {len(pool)} learners")
    # With labels this wrong, the selection data rank learners but cannot say how many.
    ensemble = EnsemblePruner(
        pool, n_members=n_members, method="top_k", random_state=seed
    )
    ensemble.prune(*problem.choose, verbose=verbose)
    say(str(ensemble.report_))
    for plot in _plot(ensemble.report_, directory):
        say(f"Plot: {plot}")
    say(f"4/5 Distil {len(pool)} learners into one network")
    student = train_student(problem, pool, **train)
    say("5/5 Export, and run the files on the test data")
    rows = _Rows(problem, directory)
    rows.add_file("baseline, float32", "control", 1, plain)
    rows.add_file("baseline, int8", "control", 1, plain)
    rows.add_file("regularised, int8", "control", 1, regularized)
    rows.add_file(f"regularised, {n_units} x longer, int8", "control", n_units, longer)
    best = _best_learner(pool, problem)
    rows.add_file("best single learner, int8", "learner", n_learners, best)
    rows.add_file("distilled, int8", "result", n_units, student)
    bundle = rows.add_bundle("ensemble, int8", "result", n_learners, ensemble)
    result = rows.result(
        epochs=epochs, seed=seed, n_learners=len(pool), bundle=str(bundle)
    )
    say(f"\n{result}")
    return result


def _check(directory, **numbers):
    if directory.exists() and any(directory.iterdir()):
        raise ValueError(
            "Expected a new or an empty directory. Received: "
            f"{str(directory)!r}, which is not empty. Pass another."
        )
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"Expected {name} to be 1 or more. Received: {value}.")
    if numbers["n_members"] > numbers["n_learners"]:
        raise ValueError(
            "Expected at most as many members as learners, of which they are selected. "
            f"Received: n_members={numbers['n_members']}, "
            f"n_learners={numbers['n_learners']}."
        )
    check_converter()


def _best_learner(pool, problem):
    """Return the learner with the lowest loss on the selection data."""
    x, y = problem.choose
    losses = selection.negative_log_likelihood(pool.predict(x, verbose=0), y)
    return pool[int(np.argmin(losses))].load()


class _Rows:
    """Run exported files, and score them.

    Attributes:
        scores: List of `Score`.
        losses: The losses of each row on the selection data.
        right: Whether each row is right, on the test data.
        tasks: Functions that predict, to be timed.
    """

    def __init__(self, problem: Problem, directory: Path):
        self.problem, self.directory = problem, directory
        self.scores, self.losses, self.right, self.tasks = [], [], [], []

    def add_file(self, name, role, cost, model):
        """Export a model, with ranges of the training data if it learned none."""
        quantization = None if name.endswith("float32") else "int8"
        path = self.directory / f"{name.replace(',', '').replace(' ', '-')}.tflite"
        data = self.problem.train[0] if quantization else None
        export_tflite(model, path, quantization=quantization, representative_data=data)
        member = Member(path, from_logits=True)
        test = member.predict(self.problem.test[0])
        sparsity = layers.sparsity(model) if layers.kernels(model) else 0.0
        self._add([path], member.predict, test, name, role, cost, sparsity)

    def add_bundle(self, name, role, cost, ensemble):
        """Export an ensemble, and run it in another process on the test data."""
        bundle = ensemble.export(
            self.directory / "bundle", evaluation_data=self.problem.choose
        )
        runner = EnsembleRunner(bundle)
        paths = [bundle / member.file for member in runner.manifest.members]
        predict = functools.partial(runner.predict, parallel=False)
        test, _ = run_bundle(bundle, self.problem.test[0])
        sparsity = np.mean([learner.sparsity for learner in ensemble.learners_])
        self._add(paths, predict, test, name, role, cost, float(sparsity))
        return bundle

    def _add(self, paths, predict, test, name, role, cost, sparsity):
        (x, y), y_test = self.problem.choose, self.problem.test[1]
        choose = predict(x)
        temperature = selection.fit_temperature(choose, y)
        scaled = selection.apply_temperature(choose, temperature)
        self.losses.append(-np.log(scaled[np.arange(len(y)), y]))
        self.right.append(test.argmax(-1) == y_test)
        self.tasks.append(predict)
        contents = [path.read_bytes() for path in paths]
        row = Score(
            name=name,
            role=role,
            cost=cost,
            sparsity=sparsity,
            accuracy=float(self.right[-1].mean()),
            nll=float(selection.negative_log_likelihood(test, y_test)),
            calibrated_nll=_calibrated_nll(test, y_test),
            n_networks=len(contents),
            n_bytes=sum(map(len, contents)),
            gzip_bytes=sum(map(gzip_size, contents)),
            held_out_loss=float(self.losses[-1].mean()),
        )
        self.scores.append(row)

    def result(self, **values) -> QuickstartResult:
        """Measure latencies, and recommend an int8 row."""
        x = np.zeros_like(self.problem.test[0][:1])
        times = interleaved_medians([functools.partial(f, x) for f in self.tasks])
        scores = [
            replace(row, latency=time)
            for row, time in zip(self.scores, times, strict=True)
        ]
        names = [row.name for row in scores]
        controls = [row for row in scores if row.role == "control"]
        losses = {
            name: loss
            for name, loss, row in zip(names, self.losses, scores, strict=True)
            if row.role != "learner" and not name.endswith("float32")
        }
        chosen, reason = recommend(losses, [row.name for row in controls[1:]])
        control = max(controls, key=lambda row: row.accuracy).name
        right = np.array(self.right, float)
        difference = right[names.index(chosen)] - right[names.index(control)]
        return QuickstartResult(
            problem=self.problem.name,
            scores=tuple(scores),
            recommended=chosen,
            reason=reason,
            best_control=control,
            gain=float(difference.mean()),
            gain_error=float(standard_error(difference)),
            **values,
        )


def _calibrated_nll(probabilities, y):
    """Return the loss with each half scaled by the temperature of the other."""
    halves = [(probabilities[i::2], y[i::2]) for i in (0, 1)]
    losses = [
        selection.calibrated_negative_log_likelihood(*one, held_out=other)
        for one, other in (halves, halves[::-1])
    ]
    return float(np.average(losses, weights=[len(y) for _, y in halves]))


def run_bundle(
    bundle: str | os.PathLike, x: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Run a bundle in another process, as on a device.

    Args:
        bundle: Path of the bundle.
        x: Inputs of shape `(samples, ...)`.

    Returns:
        Tuple of the probabilities of the ensemble `(samples, classes)` and of its
        members `(members, samples, classes)`.
    """
    with tempfile.TemporaryDirectory() as folder:
        inputs, output = Path(folder) / "x.npy", Path(folder) / "y.npy"
        np.save(inputs, x)
        command = [sys.executable, str(bundle), "predict", str(inputs)]
        probabilities = []
        for flags in ([], ["--members"]):
            subprocess.run(
                [*command, "--output", str(output), *flags],
                check=True,
                capture_output=True,
            )
            probabilities.append(np.load(output, allow_pickle=False))
    return probabilities[0], probabilities[1]


def _plot(report, directory):
    """Save plots of the report, if matplotlib is installed."""
    if importlib.util.find_spec("matplotlib") is None:
        return []
    plots = {
        "learners.png": selection.plot_map,
        "bytes.png": selection.plot_accuracy_bytes,
    }
    for name, plot in plots.items():
        plot(report).savefig(directory / name, dpi=120)
    return [directory / name for name in plots]


def _sizes(problem):
    parts = (problem.train, problem.choose, problem.test)
    n_train, n_choose, n_test = (len(part[1]) for part in parts)
    return (
        f"{n_train} images to train, {n_choose} to select and {n_test} to test, "
        f"{problem.n_classes} classes"
    )
