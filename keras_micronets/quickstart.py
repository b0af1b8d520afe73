"""The whole road on one problem: train, collect, quantise, choose, export, run."""

import math
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from keras_micronets import callbacks, layers, selection
from keras_micronets.edge.bench import interleaved_medians
from keras_micronets.edge.member import Member, softmax
from keras_micronets.edge.runner import EnsembleRunner
from keras_micronets.ensemble import EnsemblePruner
from keras_micronets.export import export_tflite, zip_bytes
from keras_micronets.export.size import gzip_size
from keras_micronets.learners import LearnerPool
from keras_micronets.schedules import PolynomialDecay

BATCH_SIZE = 64
LEARNING_RATE = 2e-3
LEARNERS_BEGIN = 0.4


@dataclass(frozen=True)
class Problem:
    """Images with labels, in three parts.

    Attributes:
        name: What the data is.
        train: Tuple `(x, y)` to train on.
        choose: Tuple `(x, y)` from the training data, to choose learners on.
        test: Tuple `(x, y)` that is only scored.
        n_classes: Number of classes.
    """

    name: str
    train: tuple[np.ndarray, np.ndarray]
    choose: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    n_classes: int


@dataclass(frozen=True)
class Score:
    """One row of the result: a model on the test data.

    Attributes:
        name: What it is.
        sparsity: Share of weights removed.
        accuracy: Share of samples classified right.
        nll: Negative log-likelihood, in nats.
        ece: Expected calibration error over 15 bins.
        n_bytes: Bytes of its `.tflite` files.
        gzip_bytes: Bytes of them after gzip.
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


@dataclass(frozen=True)
class QuickstartResult:
    """What the quickstart measured; it prints as a table.

    Attributes:
        problem: Name of the data.
        epochs: Epochs of the baseline, and of the one run that made the learners.
        seed: The seed.
        n_learners: Learners the run yielded.
        sparsities: Their sparsities.
        scores: A `Score` a row: baseline, members, ensemble before and after int8.
        zip_bytes: Bytes of the bundle's models as one zip.
        bundle: Directory of the bundle.
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


def load_problem(path: str | os.PathLike | None = None, *, seed: int = 0) -> Problem:
    """Load scikit-learn's handwritten digits, or images from a file.

    Args:
        path: An `.npz` file with `x_train`, `y_train`, `x_test`, `y_test`: images
            `(samples, height, width[, channels])`, uint8 or floats, and integer
            labels. `None` for the digits. Defaults to `None`.
        seed: Integer that draws the split of the training data. Defaults to `0`.

    Returns:
        A `Problem`; a fifth of the training data is set aside for choosing.

    Raises:
        ValueError: If the file lacks an array or its shapes do not fit.
    """
    if path is None:
        digits = load_digits()
        x, y = digits.images.astype("float32") / 16, digits.target
        parts = train_test_split(x, y, test_size=0.3, random_state=0, stratify=y)
        x_train, x_test, y_train, y_test = parts
        name = "scikit-learn's handwritten digits"
    else:
        x_train, y_train, x_test, y_test = _read_arrays(Path(path))
        name = Path(path).name
    x_train, x_test = _as_images(x_train), _as_images(x_test)
    x_train, x_choose, y_train, y_choose = train_test_split(
        x_train, y_train, test_size=0.2, random_state=seed, stratify=y_train
    )
    n_classes = int(max(y_train.max(), y_choose.max(), y_test.max())) + 1
    return Problem(
        name, (x_train, y_train), (x_choose, y_choose), (x_test, y_test), n_classes
    )


def small_cnn(input_shape: tuple[int, int, int], n_classes: int) -> keras.Model:
    """Return the quickstart's network, compiled; it puts out logits."""

    def convolution(filters):
        return [
            keras.layers.Conv2D(filters, 3, padding="same", use_bias=False),
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.ReLU(),
        ]

    model = keras.Sequential(
        [
            keras.Input(input_shape),
            *convolution(32),
            *convolution(32),
            keras.layers.MaxPooling2D(2),
            *convolution(64),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(n_classes),
        ]
    )
    model.compile(
        keras.optimizers.Adam(LEARNING_RATE),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def run_quickstart(
    problem: Problem,
    directory: str | os.PathLike,
    *,
    epochs: int = 60,
    n_learners: int = 12,
    n_members: int = 4,
    seed: int = 0,
    verbose: int = 1,
) -> QuickstartResult:
    """Walk the whole road, from training to the bundle's answers.

    Args:
        problem: The data.
        directory: Where the pool and the bundle go; it must be empty or new.
        epochs: Integer, epochs of the baseline, and of the one run that makes the
            learners. Defaults to `60`.
        n_learners: Integer, learners that the run yields. Defaults to `12`.
        n_members: Integer, learners that are kept. Defaults to `4`.
        seed: Integer. Defaults to `0`.
        verbose: Integer, 1 to show progress, 0 for silence. Defaults to `1`.

    Returns:
        A `QuickstartResult`.

    Raises:
        ValueError: If the directory holds something, or the data does not fit.
    """
    directory = Path(directory)
    if directory.exists() and any(directory.iterdir()):
        raise ValueError(
            "Expected a new or an empty directory. Received: "
            f"{str(directory)!r}, which holds something. Choose another."
        )
    say = _Speaker(verbose)
    say(f"{problem.name}: {_sizes(problem)}")
    say(f"1/5 Train the float32 baseline, {epochs} epochs")
    baseline = train_baseline(problem, epochs=epochs, seed=seed, verbose=verbose)
    say(f"2/5 Train {n_learners} learners in one run, {epochs} epochs")
    pool = LearnerPool(directory / "pool")
    train_learners(
        problem, pool, epochs=epochs, n_learners=n_learners, seed=seed, verbose=verbose
    )
    say(f"3/5 Choose {n_members} of {len(pool)} learners")
    ensemble = EnsemblePruner(pool, n_members=n_members, random_state=seed)
    ensemble.prune(*problem.choose, verbose=verbose)
    say(str(ensemble.report_))
    say("4/5 Export the bundle")
    bundle = ensemble.export(directory / "bundle", evaluation_data=problem.choose)
    say("5/5 Run the bundle in a process of its own, on the test data")
    scores = _score_all(problem, baseline, ensemble, bundle)
    result = QuickstartResult(
        problem=problem.name,
        epochs=epochs,
        seed=seed,
        n_learners=len(pool),
        sparsities=tuple(learner.sparsity for learner in pool),
        scores=tuple(scores),
        zip_bytes=zip_bytes(bundle),
        bundle=str(bundle),
    )
    say(f"\n{result}")
    return result


def train_baseline(
    problem: Problem, *, epochs: int, seed: int, verbose: int = 0
) -> keras.Model:
    """Train the float32 network that everything is compared with."""
    keras.utils.set_random_seed(seed)
    model = small_cnn(problem.train[0].shape[1:], problem.n_classes)
    fall = keras.callbacks.LearningRateScheduler(
        lambda epoch: _cosine(epoch / max(1, epochs - 1))
    )
    _fit(model, problem, epochs, verbose, [fall])
    return model


def train_learners(
    problem: Problem,
    pool: LearnerPool,
    *,
    epochs: int,
    n_learners: int,
    seed: int,
    verbose: int = 0,
) -> None:
    """Fill a pool with sparse, quantised learners of one run.

    The learning rate falls once, while the net becomes sparse; then it restarts for
    each learner (snapshot ensembles, Huang et al. 2017).
    """
    every = int(epochs * (1 - LEARNERS_BEGIN) / n_learners)
    if every < 1:
        raise ValueError(
            f"Expected at least {math.ceil(n_learners / (1 - LEARNERS_BEGIN))} epochs "
            f"for {n_learners} learners. Received: epochs={epochs}."
        )
    begin = every * (epochs // every - n_learners)
    keras.utils.set_random_seed(seed + 1)
    model = small_cnn(problem.train[0].shape[1:], problem.n_classes)
    _fit(
        model,
        problem,
        epochs,
        verbose,
        [
            keras.callbacks.LearningRateScheduler(_restarts(begin, every)),
            callbacks.WeightPruning(PolynomialDecay(0.0, 0.85, end=0.9)),
            callbacks.QuantizationAwareTraining(start=0.3),
            callbacks.LearnerCheckpoint(
                pool, every=every, start=(begin + 1) / epochs, seed=seed
            ),
        ],
    )


def score(
    name: str,
    probabilities: np.ndarray,
    y: np.ndarray,
    *,
    contents: list[bytes],
    sparsity: float = 0.0,
    latency: float | None = None,
) -> Score:
    """Score predictions on test data, and weigh the files that made them.

    Args:
        name: What is scored.
        probabilities: Array of shape `(samples, classes)`.
        y: Labels.
        contents: The bytes of the files.
        sparsity: Float. Defaults to `0.0`.
        latency: Milliseconds for one sample. Defaults to `None`.
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


def run_bundle(
    bundle: str | os.PathLike, x: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Run a bundle in a process of its own, as a device does.

    Args:
        bundle: Directory of the bundle.
        x: Inputs of shape `(samples, ...)`.

    Returns:
        Tuple of the ensemble's probabilities `(samples, classes)` and those of its
        members `(members, samples, classes)`.
    """
    with tempfile.TemporaryDirectory() as folder:
        inputs, output = Path(folder) / "x.npy", Path(folder) / "y.npy"
        np.save(inputs, x)
        command = [sys.executable, str(bundle), "predict", str(inputs)]
        answers = []
        for flags in ([], ["--members"]):
            subprocess.run(
                [*command, "--output", str(output), *flags],
                check=True,
                capture_output=True,
            )
            answers.append(np.load(output, allow_pickle=False))
    return tuple(answers)


def _latencies(members, runner):
    x = np.zeros((1, *members[0].input_shape), "float32")
    tasks = [lambda member=m: member.predict(x) for m in members]
    tasks.append(lambda: runner.predict(x, parallel=False))
    return interleaved_medians(tasks)


def _float_file(model):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        export_tflite(model, path, quantization=None)
        return path.read_bytes()


def _fit(model, problem, epochs, verbose, callbacks):
    x, y = problem.train
    bar = [_EpochBar(epochs)] if verbose else []
    model.fit(
        x, y, batch_size=BATCH_SIZE, epochs=epochs, verbose=0, callbacks=callbacks + bar
    )


class _EpochBar(keras.callbacks.Callback):
    """One progress bar for a whole run, where Keras draws one an epoch."""

    def __init__(self, epochs):
        super().__init__()
        self._bar = keras.utils.Progbar(epochs, unit_name="epoch")

    def on_epoch_end(self, epoch, logs=None):
        shown = {k: v for k, v in (logs or {}).items() if k != "learning_rate"}
        self._bar.update(epoch + 1, list(shown.items()))


class _Speaker:
    """Print to the terminal, or nothing at all."""

    def __init__(self, verbose):
        self.verbose = verbose

    def __call__(self, text):
        if self.verbose:
            print(text, flush=True)


def _cosine(done):
    """The learning rate of a fall from full to almost nothing."""
    low = 0.02
    return LEARNING_RATE * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * done)))


def _restarts(begin, every):
    def learning_rate(epoch):
        if epoch < begin:
            return _cosine(epoch / begin)
        return _cosine((epoch - begin) % every / max(1, every - 1))

    return learning_rate


def _sizes(problem):
    parts = (problem.train, problem.choose, problem.test)
    n_train, n_choose, n_test = (len(part[1]) for part in parts)
    return (
        f"{n_train} images to train on, {n_choose} to choose on, {n_test} to test, "
        f"{problem.n_classes} classes"
    )


def _row(row):
    latency = "" if row.latency is None else f"{row.latency:.3f}"
    return (
        f"{row.name:<28}{row.sparsity:>9.1%}{row.accuracy:>9.2%}{row.nll:>8.3f}"
        f"{row.ece:>8.3f}{row.n_bytes:>11,}{row.gzip_bytes:>9,}{latency:>8}"
    )


def _read_arrays(path):
    names = ("x_train", "y_train", "x_test", "y_test")
    if not path.is_file():
        raise ValueError(
            f"Expected an .npz file. Received: {path}, which is not there."
        )
    with np.load(path, allow_pickle=False) as file:
        missing = [name for name in names if name not in file]
        if missing:
            raise ValueError(
                f"Expected an .npz file with {', '.join(names)}. Received: {path} "
                f"without {', '.join(missing)}."
            )
        return [file[name].ravel() if name[0] == "y" else file[name] for name in names]


def _as_images(x):
    if x.ndim == 3:
        x = x[..., None]
    if x.ndim != 4:
        raise ValueError(
            "Expected images of shape (samples, height, width[, channels]). "
            f"Received: shape {x.shape}."
        )
    return x.astype("float32") / 255 if x.dtype == np.uint8 else x.astype("float32")
