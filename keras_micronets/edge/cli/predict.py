"""Classify the samples of a file."""

import argparse
import zipfile

import numpy as np

from ..runner import EnsembleRunner

NAME = "predict"
HELP = "classify the samples of a file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("file", metavar="FILE.npy", help="raw samples, as one array")
    parser.add_argument(
        "--output",
        metavar="OUT.npy",
        help="save the probabilities: (samples, classes), or (members, samples, "
        "classes) with --members",
    )
    parser.add_argument(
        "--members", action="store_true", help="show what every member says as well"
    )


def run(arguments: argparse.Namespace) -> None:
    """Print a line a sample, and save the probabilities where asked."""
    with EnsembleRunner(arguments.bundle, public_key=arguments.public_key) as runner:
        _predict(runner, arguments)


def _predict(runner, arguments):
    x = _load(arguments.file)
    columns = {"": runner.predict(x)}
    saved = columns[""]
    if arguments.members:
        saved = runner.predict_members(x)
        names = (f"  {member.name}: " for member in runner.members)
        columns.update(zip(names, saved, strict=True))
    if arguments.output:
        with open(arguments.output, "wb") as file:
            np.save(file, saved)
    for sample in range(len(x)):
        said = (f"{n}{_choice(p[sample], runner)}" for n, p in columns.items())
        print(f"{sample}: {''.join(said)}")


def _choice(probabilities, runner):
    best = int(probabilities.argmax())
    name = f" {runner.class_names[best]}" if runner.class_names else ""
    return f"{best}{name} {probabilities[best]:.4f}"


def _load(path):
    try:
        with open(path, "rb") as file:
            x = np.load(file, allow_pickle=False)
            if isinstance(x, np.ndarray):
                return x
            received = f"an archive of {[*x]}"
    except (ValueError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        received = error
    raise ValueError(
        f"Expected a .npy file of numbers, one array. Received: {path} ({received})."
    )
