"""Classify the samples of a file by the members that other devices serve."""

import argparse
import zipfile

import numpy as np

from ..distributed.gateway import Gateway
from .answers import check_output, save
from .broker import add_broker_arguments, read_broker

NAME = "ask"
HELP = "classify the samples of a file on other devices, by MQTT"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("file", metavar="FILE.npy", help="raw samples, as one array")
    parser.add_argument(
        "--output", metavar="OUT.npy", help="save the probabilities: (samples, classes)"
    )
    parser.add_argument(
        "--deadline",
        type=float,
        default=5.0,
        help="seconds for a request, and for finding nodes; default: %(default)s",
    )
    parser.add_argument("--quorum", type=int, help="members; default: a majority")
    parser.add_argument(
        "--batch-size", type=int, default=32, help="samples a request; %(default)s"
    )
    parser.add_argument("--name", help="default: the user name, or the host's")
    add_broker_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    """Print a line a sample, and save the probabilities where asked."""
    check_output(arguments.output)
    x = _load(arguments.file)
    with Gateway(
        arguments.bundle,
        read_broker(arguments),
        quorum=arguments.quorum,
        deadline=arguments.deadline,
        name=arguments.name,
        prefix=arguments.prefix,
        public_key=arguments.public_key,
    ) as gateway:
        gateway.wait(arguments.deadline)
        saved = [*_ask(gateway, x, max(1, arguments.batch_size))]
    if arguments.output:
        save(arguments.output, saved)


def _ask(gateway, x, batch_size):
    for start in range(0, max(1, len(x) if x.ndim else 1), batch_size):
        answer = gateway.predict(x[start : start + batch_size] if x.ndim else x)
        said = ", ".join(answer.members)
        if answer.missing:
            said += f"; without {', '.join(answer.missing)}"
        for place, row in enumerate(answer.probabilities, start):
            print(
                f"{place}: {_choice(row, gateway.manifest.class_names)}  ({said})",
                flush=True,
            )
        yield answer.probabilities


def _choice(probabilities, names):
    best = int(probabilities.argmax())
    name = f" {names[best]}" if names else ""
    return f"{best}{name} {probabilities[best]:.4f}"


def _load(path):
    try:
        with open(path, "rb") as file:
            x = np.load(file, allow_pickle=False)
            if isinstance(x, np.ndarray):
                return x
            received = "an archive"
    except (ValueError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        received = error
    raise ValueError(
        f"Expected a .npy file of numbers, one array. Received: {path} ({received})."
    )
