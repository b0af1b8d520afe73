"""What `predict` and `ask` print and save."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..bundle.manifest import Manifest
from ..inputs import (
    SkippedSample,
    check_images,
    is_image,
    list_files,
    read_file,
    read_stream,
)


@dataclass(frozen=True)
class Answers:
    """Hold what was said of some samples.

    Args:
        ensemble: Probabilities of the ensemble, of shape `(samples, classes)`.
        members: Those of each member that is to be shown, by its name. Defaults to
            none.
        answered, missing: Names of the members that were asked elsewhere, and did
            answer or did not. Default to none.
    """

    ensemble: np.ndarray
    members: dict[str, np.ndarray] = field(default_factory=dict)
    answered: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def saved(self) -> np.ndarray:
        """What `--output` keeps: the members' probabilities, if these are shown."""
        return np.stack([*self.members.values()]) if self.members else self.ensemble


def as_text(index, source, row: int, answers: Answers, class_names) -> str:
    """Return the line of a sample: its number, or the image's name, and its class.

    Args:
        index: Number of the sample, the row in what is saved.
        source: Path of the file, or `"-"`.
        row: Which of the samples of `answers` it is.
        answers: What was said.
        class_names: One a class, or `None`.
    """
    label = source if source != "-" and is_image(source) else index
    said = [_choice(answers.ensemble[row], class_names)]
    for name, probabilities in answers.members.items():
        said.append(f"{name}: {_choice(probabilities[row], class_names)}")
    if answers.answered:
        without = f"; without {', '.join(answers.missing)}" if answers.missing else ""
        said.append(f"({', '.join(answers.answered)}{without})")
    return f"{label}: {'  '.join(said)}"


def as_json(index, source, row: int, answers: Answers, class_names) -> str:
    """Return the line of a sample as a JSON object; arguments as for `as_text`."""
    file = None if source == "-" else str(source)
    said = {"index": index, "file": file, **_named(answers.ensemble[row], class_names)}
    if answers.members:
        said["members"] = [
            {"member": name, **_named(probabilities[row], class_names)}
            for name, probabilities in answers.members.items()
        ]
    if answers.answered:
        said |= {"answered": answers.answered, "missing": answers.missing}
    return json.dumps(said)


def check_output(path: str | None) -> None:
    """Raise a `ValueError` if no file can be put at a path; `None` is no path."""
    if path is None:
        return
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir() or (target.exists() and not target.is_file()):
        raise ValueError(
            "Expected the path of a file, in a folder that exists, to save to. "
            f"Received: {path}."
        )


def save(path: str, answers: list[np.ndarray]) -> None:
    """Save probabilities as one `.npy` file, as a whole or not at all.

    Args:
        path: Where to; an older file is replaced.
        answers: Arrays `(..., samples, classes)`.
    """
    target = Path(os.path.realpath(path))
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with open(partial, "wb") as file:
            np.save(file, np.concatenate(answers, axis=-2))
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def _choice(probabilities, class_names):
    best = int(probabilities.argmax())
    name = f" {class_names[best]}" if class_names else ""
    return f"{best}{name} {probabilities[best]:.4f}"


def _named(probabilities, class_names):
    best = int(probabilities.argmax())
    return {
        "class": best,
        "name": class_names[best] if class_names else None,
        "probability": round(float(probabilities[best]), 6),
    }


def add_input_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say what is read and how answers are given."""
    parser.add_argument(
        "inputs",
        metavar="INPUT",
        nargs="+",
        help="images, or a folder of them; a .csv of sensor readings, a row a time "
        "step; a .npy file of raw samples; - for a stream of .npy arrays or CSV rows",
    )
    parser.add_argument(
        "--output", metavar="OUT.npy", help="save the probabilities, a row a line"
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


class Reading:
    """Read the sources one after the other, print the answers, and remember them.

    Args:
        arguments: What the command was called with, see `add_input_arguments`.
        answer: Function of samples `(samples, *input_shape)` that yields `Answers`,
            of a few of them at a time.
        manifest: Function that returns the `Manifest` of the bundle that answers.

    Attributes:
        has_failed: Whether some of the input was bad.
        is_whole: Whether each file was predicted to its end, or not at all.

    Raises:
        ValueError: If there is nowhere to save to, or a source is none.
    """

    def __init__(
        self,
        arguments: argparse.Namespace,
        answer: Callable[[np.ndarray], Iterator[Answers]],
        manifest: Callable[[], Manifest],
    ):
        self.arguments, self.answer, self.manifest = arguments, answer, manifest
        self.count = 0
        self.kept = []
        self.has_failed = False
        self.is_whole = True

    def run(self) -> int:
        """Read all sources; save what was said, unless it is of half a file.

        Returns:
            Exit code: `0`; `2` if some of the input was bad, said on stderr.
        """
        sources = check_inputs(self.arguments)
        if any(source != "-" and is_image(source) for source in sources):
            check_images(self.manifest().members[0].input.shape)  # once, not for each
        try:
            for source in sources:
                self._read(source)
        finally:  # Ctrl-C and a broken pipe are usual ends of a stream
            if self.arguments.output and self.kept and self.is_whole:
                save(self.arguments.output, self.kept)
        return 2 if self.has_failed else 0

    def say(self, problem: SkippedSample) -> None:
        """Print what was left out, and remember it if it was an error."""
        self.has_failed |= problem.is_error
        kind = "error" if problem.is_error else "note"
        print(f"{kind}: {problem.message}", file=sys.stderr, flush=True)

    def _read(self, source):
        before = self.count
        try:
            for item in self._samples(source):
                if isinstance(item, SkippedSample):
                    self.say(item)
                    continue
                for answers in self.answer(item):
                    self._print(answers, source)
        except (KeyboardInterrupt, BrokenPipeError):
            self.is_whole &= source == "-"
            raise
        except (ValueError, OSError) as error:
            name = "standard input" if source == "-" else str(source)
            self.say(
                SkippedSample(f"{error}" if name in str(error) else f"{name}: {error}")
            )
            # Half a file would pass for the whole; a stream ends where it ends.
            self.is_whole &= source == "-" or self.count == before

    def _samples(self, source):
        how = {"hop": self.arguments.hop, "delimiter": self.arguments.delimiter}
        shape = self.manifest().members[0].input.shape
        if source == "-":
            return read_stream(sys.stdin.buffer, shape, **how)
        return read_file(source, shape, **how)

    def _print(self, answers, source):
        if self.arguments.output:
            self.kept.append(answers.saved)
        line = as_json if self.arguments.json else as_text
        class_names = self.manifest().class_names
        for row in range(len(answers.ensemble)):
            print(line(self.count, source, row, answers, class_names))
            self.count += 1
        sys.stdout.flush()


def check_inputs(arguments: argparse.Namespace) -> list[Path | str]:
    """Return what there is to read, with a folder's images: paths, and `"-"`.

    Raises:
        ValueError: If a folder has no images, or there is nowhere to save to.
    """
    check_output(arguments.output)
    return [
        source
        for path in arguments.inputs
        for source in (["-"] if path == "-" else list_files(path))
    ]
