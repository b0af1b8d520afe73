"""The command `predict`: classify samples on this device."""

import argparse
import threading
from typing import Any

from ..combine import combine
from ..inputs import SkippedSample
from ..runner import EnsembleRunner
from .reading import (
    InputLoop,
    Predictions,
    add_input_arguments,
    check_inputs,
    on_signal,
)

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to a parser."""
    add_input_arguments(parser)
    parser.add_argument(
        "--members",
        action="store_true",
        help="show, and save, the prediction of every member as well",
    )


def run(arguments: argparse.Namespace) -> int:
    """Classify the inputs, print a line for each sample, and return the exit code."""
    check_inputs(arguments)
    hangup = threading.Event()
    with EnsembleRunner(arguments.bundle, public_key=arguments.public_key) as runner:

        def predict(x):
            if hangup.is_set():
                hangup.clear()
                _reload(runner, loop)
            yield _predict(runner, x, arguments.members)

        loop = InputLoop(arguments, predict, lambda: runner.manifest)
        with on_signal("SIGHUP", lambda *_: hangup.set()):
            return loop.run()


def _predict(runner: EnsembleRunner, x: Any, with_members: bool) -> Predictions:
    if not with_members:
        return Predictions(runner.predict(x))
    members = runner.predict_members(x)
    names = (member.name for member in runner.members)
    together = combine(members, **runner.manifest.combination.arguments)
    return Predictions(together, dict(zip(names, members, strict=True)))


def _reload(runner, loop):
    try:
        runner.reload()
    except (ValueError, OSError) as error:
        loop.report(SkippedSample(f"{error} The previous bundle stays in use."))
