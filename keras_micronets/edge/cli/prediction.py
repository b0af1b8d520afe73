import argparse
import sys
from pathlib import Path

from ..combine import combine
from ..inputs import Problem, read_file, read_stream
from ..runner import EnsembleRunner
from .answers import as_json, as_text, save


class Prediction:
    """Read sources one after the other, print the answers, and remember them.

    Args:
        runner: The `EnsembleRunner`.
        arguments: What the command was called with.

    Attributes:
        has_failed: Whether some of the input was bad.
        is_whole: Whether each file was predicted to its end, or not at all.
    """

    def __init__(self, runner: EnsembleRunner, arguments: argparse.Namespace):
        self.runner = runner
        self.arguments = arguments
        self.count = 0
        self.kept = []
        self.has_failed = False
        self.is_whole = True
        self.is_reload_due = False

    def read(self, source: str | Path) -> None:
        """Predict one file, or `"-"`, a stream; what is bad in it is said on stderr."""
        before = self.count
        try:
            for item in self._samples(source):
                if isinstance(item, Problem):
                    self._say(item)
                else:
                    self._answer(item, source)
        except (KeyboardInterrupt, BrokenPipeError):
            self.is_whole &= source == "-"
            raise
        except (ValueError, OSError) as error:
            name = "standard input" if source == "-" else str(source)
            self._say(Problem(f"{error}" if name in str(error) else f"{name}: {error}"))
            # Half a file would pass for the whole; a stream ends where it ends.
            self.is_whole &= source == "-" or self.count == before

    def reload_soon(self, *_) -> None:
        """Have the bundle read again before the next sample; for a signal to call."""
        self.is_reload_due = True

    def save(self) -> None:
        """Save what was predicted, where asked, unless that is half a file."""
        if self.arguments.output and self.kept and self.is_whole:
            save(self.arguments.output, self.kept)

    def _samples(self, source):
        how = {"hop": self.arguments.hop, "delimiter": self.arguments.delimiter}
        shape = self.runner.members[0].input_shape
        if source == "-":
            return read_stream(sys.stdin.buffer, shape, **how)
        return read_file(source, shape, **how)

    def _reload(self):
        self.is_reload_due = False
        try:
            self.runner.reload()
        except (ValueError, OSError) as error:
            self._say(Problem(f"{error} The bundle of before stays in service."))

    def _answer(self, x, source):
        if self.is_reload_due:
            self._reload()
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
