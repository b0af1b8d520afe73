import functools
import importlib.util
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from keras_micronets import layers, selection
from keras_micronets.edge.bench import interleaved_medians
from keras_micronets.edge.member import Member, softmax
from keras_micronets.edge.runner import EnsembleRunner
from keras_micronets.ensemble.pruner import EnsemblePruner
from keras_micronets.export import export_tflite
from keras_micronets.export.bundle.writer import zip_size
from keras_micronets.export.flatbuffer import gzip_size
from keras_micronets.export.subprocess_converter import check_converter
from keras_micronets.learners import LearnerPool
from keras_micronets.quickstart.training import (
    Problem,
    plan_cycles,
    train_baseline,
    train_learners,
)

__all__ = ["QuickstartResult", "Score", "run_bundle", "run_quickstart", "score"]


@dataclass(frozen=True)
class Score:
    """A row of the result: the metrics of a model on the test data.

    Attributes:
        name: Name of the model.
        sparsity: Share of removed weights.
        accuracy: Share of correct predictions.
        nll: Negative log-likelihood, in nats.
        ece: Expected calibration error over 15 bins.
        n_bytes: Size of its `.tflite` files.
        gzip_bytes: Their size after gzip.
        latency: Milliseconds for one sample on this host; `None` if not measured.
    """

    name: str
    sparsity: float
    accuracy: float
    nll: float
    ece: float
    n_bytes: int
    gzip_bytes: int
    latency: float | None = None


def score(
    name: str,
    probabilities: np.ndarray,
    y: np.ndarray,
    *,
    contents: list[bytes],
    sparsity: float = 0.0,
    latency: float | None = None,
) -> Score:
    """Return the `Score` of predictions and of the files that made them.

    Args:
        probabilities: Array of shape `(samples, classes)`.
        y: Integer labels.
        contents: The bytes of each file.
        name, sparsity, latency: As in `Score`.
    """
    return Score(
        name=name,
        sparsity=float(sparsity),
        accuracy=float(selection.accuracy(probabilities, y)),
        nll=float(selection.negative_log_likelihood(probabilities, y)),
        ece=float(selection.expected_calibration_error(probabilities, y)),
        n_bytes=sum(map(len, contents)),
        gzip_bytes=sum(map(gzip_size, contents)),
        latency=latency,
    )


@dataclass(frozen=True)
class QuickstartResult:
    """The result of the quickstart; prints as a table.

    Attributes:
        problem: Name of the data.
        epochs: Epochs of the baseline, and of the one run that made the learners.
        seed: Seed of the run.
        n_learners: Number of learners in the pool.
        sparsities: Their sparsities.
        scores: A `Score` for the baseline, each member, and the ensemble before and
            after int8 quantisation.
        zip_bytes: Size of the models of the bundle as one zip.
        bundle: Path of the bundle.
    """

    problem: str
    epochs: int
    seed: int
    n_learners: int
    sparsities: tuple[float, ...]
    scores: tuple[Score, ...]
    zip_bytes: int
    bundle: str

    def to_json(self) -> dict:
        """Return the result as JSON values."""
        return asdict(self)

    def __str__(self):
        head = (
            f"{'test data, scored once':<28}{'sparsity':>9}{'accuracy':>9}{'NLL':>8}"
            f"{'ECE':>8}{'bytes':>11}{'gzip':>9}{'ms':>8}"
        )
        share = self.zip_bytes / self.scores[0].n_bytes
        foot = (
            f"The bundle's models as one zip: {self.zip_bytes:,} bytes, {share:.0%} of "
            f"the float32 baseline's file. Bundle: {self.bundle}"
        )
        return "\n".join([head, *map(_row, self.scores), "", foot])


def _row(row):
    latency = "" if row.latency is None else f"{row.latency:.3f}"
    return (
        f"{row.name:<28}{row.sparsity:>9.1%}{row.accuracy:>9.2%}{row.nll:>8.3f}"
        f"{row.ece:>8.3f}{row.n_bytes:>11,}{row.gzip_bytes:>9,}{latency:>8}"
    )


def run_quickstart(
    problem: Problem,
    directory: str | os.PathLike,
    *,
    epochs: int = 160,
    n_learners: int = 12,
    n_members: int = 4,
    seed: int = 0,
    verbose: int = 1,
) -> QuickstartResult:
    """Run the full pipeline, from training to the predictions of a bundle.

    Args:
        problem: The data, as returned by `load_problem`.
        directory: New or empty directory for the pool and the bundle.
        epochs: Integer, epochs of the baseline, and of the one run that trains the
            learners. Defaults to `160`.
        n_learners: Integer, learners that the run trains. Defaults to `12`.
        n_members: Integer, learners that are selected. Defaults to `4`.
        seed: Integer. Defaults to `0`.
        verbose: Integer, 1 to show progress, 0 for no output. Defaults to `1`.

    Raises:
        ValueError: If the directory is not empty, there are too few epochs for the
            learners, the data has another shape, or TensorFlow is not installed.
    """
    directory = Path(directory)
    if directory.exists() and any(directory.iterdir()):
        raise ValueError(
            "Expected a new or an empty directory. Received: "
            f"{str(directory)!r}, which is not empty. Pass another."
        )
    check_converter()
    plan_cycles(epochs, n_learners)  # raises before anything is trained
    say = functools.partial(print, flush=True) if verbose else lambda _: None
    say(f"{problem.name}: {_sizes(problem)}")
    say(f"1/5 Train the float32 baseline, {epochs} epochs")
    baseline = train_baseline(problem, epochs=epochs, seed=seed, verbose=verbose)
    say(f"2/5 Train {n_learners} learners in one run, {epochs} epochs")
    pool = LearnerPool(directory / "pool")
    train_learners(
        problem, pool, epochs=epochs, n_learners=n_learners, seed=seed, verbose=verbose
    )
    say(f"3/5 Select {n_members} of {len(pool)} learners")
    ensemble = EnsemblePruner(pool, n_members=n_members, random_state=seed)
    ensemble.prune(*problem.choose, verbose=verbose)
    say(str(ensemble.report_))
    for plot in _plot(ensemble.report_, directory):
        say(f"Plot: {plot}")
    say("4/5 Export the bundle")
    bundle = ensemble.export(directory / "bundle", evaluation_data=problem.choose)
    say("5/5 Run the bundle in another process, on the test data")
    scores = _score_all(problem, baseline, ensemble, bundle)
    result = QuickstartResult(
        problem=problem.name,
        epochs=epochs,
        seed=seed,
        n_learners=len(pool),
        sparsities=tuple(learner.sparsity for learner in pool),
        scores=tuple(scores),
        zip_bytes=zip_size(bundle),
        bundle=str(bundle),
    )
    say(f"\n{result}")
    return result


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


def _score_all(problem, baseline, ensemble, bundle):
    """Score the baseline, each member, and the ensemble before and after int8."""
    x, y = problem.test
    plain = [baseline, *map(layers.strip, ensemble.members_)]
    floats = [_float_file(model) for model in plain]
    before = [softmax(model.predict(x, verbose=0)) for model in plain]
    after, members_after = run_bundle(bundle, x)
    with EnsembleRunner(bundle) as runner:
        files = [(Path(bundle) / m.file).read_bytes() for m in runner.manifest.members]
        *alone, together = _latencies([Member(floats[0]), *runner.members], runner)
    sparsities = [learner.sparsity for learner in ensemble.learners_]
    mean = float(np.mean(sparsities))
    yield score(
        "baseline, float32", before[0], y, contents=floats[:1], latency=alone[0]
    )
    for i, (file, sparsity) in enumerate(zip(files, sparsities, strict=True)):
        yield score(
            f"member {i}, int8",
            members_after[i],
            y,
            contents=[file],
            sparsity=sparsity,
            latency=alone[i + 1],
        )
    yield score(
        "ensemble before int8",
        np.mean(before[1:], axis=0),
        y,
        contents=floats[1:],
        sparsity=mean,
    )
    yield score(
        "ensemble, int8", after, y, contents=files, sparsity=mean, latency=together
    )


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


def _latencies(members, runner):
    x = np.zeros((1, *members[0].input_shape), "float32")
    tasks: list = [functools.partial(member.predict, x) for member in members]
    tasks.append(lambda: runner.predict(x, parallel=False))
    return interleaved_medians(tasks)


def _float_file(model):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        export_tflite(model, path, quantization=None)
        return path.read_bytes()


def _sizes(problem):
    parts = (problem.train, problem.choose, problem.test)
    n_train, n_choose, n_test = (len(part[1]) for part in parts)
    return (
        f"{n_train} images to train, {n_choose} to select and {n_test} to test, "
        f"{problem.n_classes} classes"
    )
