"""Classify the samples of files, or of a stream, and print a line for each.

On SIGHUP the bundle is read again, and answers from the next sample on.
"""

import argparse
import contextlib
import signal

from ..inputs import check_images, is_image, list_files
from ..runner import EnsembleRunner
from .answers import check_output
from .prediction import Prediction

NAME = "predict"
HELP = "classify images, arrays, sensor readings, or a stream"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument(
        "inputs",
        metavar="INPUT",
        nargs="+",
        help="images, or a folder of them; a .csv of sensor readings, a row a time "
        "step; a .npy file of raw samples; - for a stream of .npy arrays or CSV rows",
    )
    parser.add_argument(
        "--output",
        metavar="OUT.npy",
        help="save the probabilities, a row a line printed: (samples, classes), or "
        "(members, samples, classes) with --members",
    )
    parser.add_argument(
        "--members", action="store_true", help="show what every member says as well"
    )
    parser.add_argument(
        "--json", action="store_true", help="print a JSON object a line"
    )
    parser.add_argument(
        "--hop",
        type=int,
        metavar="ROWS",
        help="rows of a table from a window to the next; default: a window's rows",
    )
    parser.add_argument(
        "--delimiter", default=",", help="between columns; default: %(default)s"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print a line a sample, and save the probabilities where asked.

    Returns:
        Exit code: `0`; `2` if some of the input was bad, said on stderr.
    """
    check_output(arguments.output)
    sources = _sources(arguments.inputs)
    with EnsembleRunner(arguments.bundle, public_key=arguments.public_key) as runner:
        if any(source != "-" and is_image(source) for source in sources):
            check_images(runner.members[0].input_shape)  # once, not for each
        prediction = Prediction(runner, arguments)
        try:
            with _hangups(prediction.reload_soon):
                for source in sources:
                    prediction.read(source)
        except (KeyboardInterrupt, BrokenPipeError):  # usual ends of a stream
            prediction.save()
            raise
        prediction.save()
    return 2 if prediction.has_failed else 0


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


def _sources(inputs):
    """Return what there is to read, with a folder's images: paths, and `"-"`."""
    return [
        source
        for path in inputs
        for source in (["-"] if path == "-" else list_files(path))
    ]
