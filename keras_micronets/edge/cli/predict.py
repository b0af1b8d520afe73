"""Classify the samples of files, or of a stream, and print a line for each.

On SIGHUP the bundle is read again, and answers from the next sample on.
"""

import argparse
import contextlib
import signal
import threading

from ..combine import combine
from ..inputs import SkippedSample
from ..runner import EnsembleRunner
from .reading import Answers, Reading, add_input_arguments, check_inputs

NAME = "predict"
HELP = "classify images, arrays, sensor readings, or a stream"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    add_input_arguments(parser)
    parser.add_argument(
        "--members",
        action="store_true",
        help="show, and save, what every member says as well",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print a line a sample, and save the probabilities where asked.

    Returns:
        Exit code: `0`; `2` if some of the input was bad, said on stderr.
    """
    check_inputs(arguments)
    hangup = threading.Event()
    with EnsembleRunner(arguments.bundle, public_key=arguments.public_key) as runner:

        def answer(x):
            if hangup.is_set():
                hangup.clear()
                _reload(runner, reading)
            yield _answer(runner, x, arguments.members)

        reading = Reading(arguments, answer, lambda: runner.manifest)
        with _hangups(lambda *_: hangup.set()):
            return reading.run()


def _answer(runner, x, with_members):
    if not with_members:
        return Answers(runner.predict(x))
    said, how = runner.predict_members(x), runner.manifest.combination
    names = (member.name for member in runner.members)
    together = combine(said, rule=how.rule, weights=how.weights)
    return Answers(together, dict(zip(names, said, strict=True)))


def _reload(runner, reading):
    try:
        runner.reload()
    except (ValueError, OSError) as error:
        reading.say(SkippedSample(f"{error} The bundle of before stays in service."))


@contextlib.contextmanager
def _hangups(handler):
    """Let SIGHUP call a function, unless there is none or it is ignored (nohup)."""
    number = getattr(signal, "SIGHUP", None)
    if number is None or signal.getsignal(number) == signal.SIG_IGN:
        yield
        return
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)
