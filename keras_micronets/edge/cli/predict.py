"""Classify the samples of files, or of a stream, and print a line for each."""

import argparse
import sys

from ..combine import combine
from ..inputs import (
    Problem,
    check_images,
    is_image,
    list_files,
    read_file,
    read_stream,
)
from ..runner import EnsembleRunner
from .answers import as_json, as_text, check_output, save

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
        job = _Job(runner, arguments)
        try:
            for source in sources:
                job.predict(source)
        except KeyboardInterrupt:  # the usual end of a stream
            job.is_whole = job.is_whole and "-" in arguments.inputs
            job.save()
            raise
        job.save()
    return 2 if job.has_failed else 0


class _Job:
    """What was predicted so far."""

    def __init__(self, runner, arguments):
        self.runner = runner
        self.arguments = arguments
        self.count = 0
        self.kept = []
        self.has_failed = False
        self.is_whole = True

    def predict(self, source):
        """Predict one file or stream; what is bad in it is said on stderr."""
        before = self.count
        try:
            for item in self._read(source):
                if isinstance(item, Problem):
                    self._say(item)
                else:
                    self._answer(item, source)
        except BrokenPipeError:
            raise
        except (ValueError, OSError) as error:
            name = "standard input" if source == "-" else str(source)
            self._say(Problem(f"{error}" if name in str(error) else f"{name}: {error}"))
            # Half a file would pass for the whole; a stream ends where it ends.
            self.is_whole &= source == "-" or self.count == before

    def save(self):
        """Save what was predicted, where asked, unless that is half a file."""
        if self.arguments.output and self.kept and self.is_whole:
            save(self.arguments.output, self.kept)

    def _read(self, source):
        how = {"hop": self.arguments.hop, "delimiter": self.arguments.delimiter}
        shape = self.runner.members[0].input_shape
        if source == "-":
            return read_stream(sys.stdin.buffer, shape, **how)
        return read_file(source, shape, **how)

    def _answer(self, x, source):
        ensemble, members = self._probabilities(x)
        if self.arguments.output:
            self.kept.append(ensemble if members is None else members)
        line = as_json if self.arguments.json else as_text
        for row, probabilities in enumerate(ensemble):
            said = () if members is None else members[:, row]
            print(line(self.count, source, probabilities, said, self.runner))
            self.count += 1
        sys.stdout.flush()

    def _probabilities(self, x):
        if not self.arguments.members:
            return self.runner.predict(x), None
        members = self.runner.predict_members(x)
        how = self.runner.manifest.combination
        return combine(members, rule=how.rule, weights=how.weights), members

    def _say(self, problem):
        self.has_failed |= problem.is_error
        kind = "error" if problem.is_error else "note"
        print(f"{kind}: {problem.message}", file=sys.stderr, flush=True)


def _sources(inputs):
    """Return what there is to read, with a folder's images: paths, and `"-"`."""
    return [
        source
        for path in inputs
        for source in (["-"] if path == "-" else list_files(path))
    ]
