"""Read inputs, print and save their predictions: shared by `predict` and `ask`."""

import argparse
import contextlib
import csv
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..bundle.manifest import Manifest
from ..inputs import (
    SkippedSample,
    TableFormat,
    TimedArray,
    check_images,
    list_files,
    read_file,
    read_files,
    read_stream,
)
from ..tensors import take_samples
from .description import Description, format_json, format_text, is_image_source

__all__ = [
    "InputLoop",
    "Predictions",
    "add_input_arguments",
    "check_inputs",
    "check_output",
    "on_signal",
]


@dataclass(frozen=True)
class Predictions:
    """Hold the predictions for some samples.

    Args:
        ensemble: Predictions of the ensemble, of shape `(samples, *outputs)`.
        members: Predictions of each member to show, by its name.
        answered, missing: Names of the members on other devices that did or did not
            answer.
    """

    ensemble: np.ndarray
    members: dict[str, np.ndarray] = field(default_factory=dict)
    answered: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def saved(self) -> np.ndarray:
        """The array that `--output` saves: of the members, if these are shown."""
        return np.stack([*self.members.values()]) if self.members else self.ensemble


def add_input_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for inputs and outputs to a parser."""
    parser.add_argument(
        "inputs",
        metavar="INPUT",
        nargs="+",
        help="images, or a folder of them; a .csv of sensor readings, a row per time "
        "step; a .npy file of raw samples; - for a stream of .npy arrays or CSV rows; "
        "NAME=PATH for each of several inputs",
    )
    parser.add_argument(
        "--output",
        metavar="OUT.npy",
        help="save the predictions, one row per sample; NaN for a bad sample of arrays",
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object per line"
    )
    parser.add_argument(
        "--hop",
        type=int,
        metavar="ROWS",
        help="rows of a table from a window to the next; default: a window's rows",
    )
    group = parser.add_argument_group("tables of sensor readings")
    group.add_argument(
        "--columns",
        metavar="NAME,NAME",
        help="columns to read, in the model's order: names in the header, or indices "
        "from 0; default: all",
    )
    group.add_argument(
        "--time",
        metavar="NAME",
        help="column of time stamps, shown with the prediction that ends there",
    )
    group.add_argument(
        "--skip",
        type=int,
        default=0,
        metavar="LINES",
        help="lines to leave out before the header; default: %(default)s",
    )
    group.add_argument(
        "--delimiter",
        help="between columns; default: a tab (\\t) for .tsv, a semicolon with "
        "--decimal ',', otherwise a comma",
    )
    group.add_argument("--decimal", default=".", help="mark; default: %(default)s")


class InputLoop:
    """Read the inputs of a command one by one; print and save their predictions.

    Args:
        arguments: Parsed arguments of the command, see `add_input_arguments`.
        predict: Function that takes samples `(samples, *input_shape)`, or a dictionary
            of those of several inputs, and yields `Predictions`, each for a part.
        manifest: Function that returns the `Manifest` of the current bundle.
    """

    def __init__(
        self,
        arguments: argparse.Namespace,
        predict: Callable[[Any], Iterator[Predictions]],
        manifest: Callable[[], Manifest],
    ) -> None:
        self.arguments, self.predict, self.manifest = arguments, predict, manifest
        self.count = self.n_predicted = self.n_skipped = 0
        self.kept: list[np.ndarray | int] = []  # numbers of missing samples, too
        self.has_failed = False
        self.is_whole = True  # no file was predicted in part

    def run(self) -> int:
        """Read all inputs, and return 0, or 2 if some of the input was bad.

        SIGTERM ends the command as Ctrl-C does: of a stream, the predictions so far are
        saved.

        Raises:
            ValueError: If an input or the path of the output is invalid.
        """
        sources, shape = check_inputs(self.arguments), self._shape()
        if isinstance(shape, dict):
            sources = [_named_paths(self.arguments.inputs, shape)]
        elif any(is_image_source(source) for source in sources):
            check_images(shape)  # once for all files
        with on_signal("SIGTERM", _terminate):
            try:
                for source in sources:
                    self._read(source)
            finally:  # Ctrl-C and a broken pipe are usual ends of a stream
                self._finish()
        return 2 if self.has_failed else 0

    def report(self, skipped: SkippedSample) -> None:
        """Print a note or an error to stderr, and remember an error."""
        self.has_failed |= skipped.is_error
        label = "error" if skipped.is_error else "note"
        print(f"{label}: {skipped.message}", file=sys.stderr, flush=True)

    def _read(self, source):
        count_before, is_empty = self.count, True
        try:
            for item in self._samples(source):
                is_empty = False
                if isinstance(item, SkippedSample):
                    self._skip(item)
                elif isinstance(item, TimedArray):
                    self._predict(item.values, source, item.time)
                else:
                    self._predict(item, source)
            if is_empty:
                raise ValueError("Expected at least one sample. Received: none.")
        except (KeyboardInterrupt, SystemExit, BrokenPipeError):
            self.is_whole &= source == "-"
            raise
        except (ValueError, OSError) as error:
            name = _label(source)
            text = f"{error}" if name in str(error) else f"{name}: {error}"
            self.report(SkippedSample(text))
            # Half a file could be mistaken for the whole; a stream has no fixed length.
            self.is_whole &= source == "-" or self.count == count_before

    def _predict(self, x, source, time=None):
        done = 0
        try:
            for predictions in self.predict(x):
                end = done + len(predictions.ensemble)
                part = take_samples(x, slice(done, end))
                self._print(predictions, source, part, time)
                done = end
        except (ValueError, TimeoutError) as error:
            if source != "-":
                raise
            self._skip(SkippedSample(f"{error}", n_samples=1))  # the stream goes on

    def _skip(self, skipped):
        self.report(skipped)
        self.n_skipped += skipped.is_error
        self.count += skipped.n_samples
        if self.arguments.output:
            self.kept.append(skipped.n_samples)

    def _samples(self, source):
        arguments = self.arguments
        options = {"hop": arguments.hop, "table_format": _table_format(arguments)}
        shape = self._shape()
        if isinstance(source, dict):
            return read_files(source, shape, **options)
        if source == "-":
            stdin: Any = sys.stdin.buffer
            return read_stream(stdin, shape, **options)
        return read_file(source, shape, **options)

    def _shape(self):
        return self.manifest().members[0].input_shape

    def _print(self, predictions, source, x, time):
        if self.arguments.output:
            self.kept.append(predictions.saved)
        describe = Description(self.manifest(), x)
        format_line = format_json if self.arguments.json else format_text
        for row in range(len(predictions.ensemble)):
            print(format_line(self.count, source, row, predictions, describe, time))
            self.count += 1
        self.n_predicted += len(predictions.ensemble)
        sys.stdout.flush()

    def _finish(self):
        """Count what was skipped; save the predictions, and NaN for missing samples."""
        if self.n_skipped:
            summary = f"{self.n_predicted} samples predicted, {self.n_skipped} rows or "
            print(f"summary: {summary}samples skipped", file=sys.stderr, flush=True)
        arrays = [kept for kept in self.kept if not isinstance(kept, int)]
        if not arrays or not self.is_whole:
            return
        axis = -1 - len(self.manifest().members[0].output.shape)
        nan = np.full_like(arrays[0].take([0], axis), np.nan)
        parts = [nan.repeat(x, axis) if isinstance(x, int) else x for x in self.kept]
        _save(self.arguments.output, parts, axis)


def check_inputs(arguments: argparse.Namespace) -> list[Path | str]:
    """Return the inputs, each a path or `"-"`, with folders replaced by their images.

    Raises:
        ValueError: If a folder has no images, the output cannot be saved, or the format
            of tables is invalid.
    """
    check_output(arguments.output)
    _table_format(arguments)
    return [
        source
        for path in arguments.inputs
        for source in (["-"] if path == "-" else list_files(path))
    ]


@contextlib.contextmanager
def on_signal(name: str, handler: Callable[..., Any]) -> Iterator[None]:
    """Call a function on a signal of the system, unless there is none or it is ignored.

    Signals reach the main thread only; on others this does nothing.
    """
    number = getattr(signal, name, None)
    is_main = threading.current_thread() is threading.main_thread()
    if number is None or not is_main or signal.getsignal(number) == signal.SIG_IGN:
        yield  # as by nohup
        return
    previous = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, previous)


def _terminate(number, _):
    raise SystemExit(128 + number)


def _table_format(arguments):
    columns, mark = arguments.columns, arguments.delimiter
    return TableFormat(
        columns=columns and [*map(str.strip, next(csv.reader([columns])))],
        time=arguments.time,
        skip=arguments.skip,
        delimiter="\t" if mark == "\\t" else mark,
        decimal=arguments.decimal,
    )


def check_output(path: str | None) -> None:
    """Raise a `ValueError` if a file cannot be saved at a path."""
    if path is None:
        return
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir() or (target.exists() and not target.is_file()):
        raise ValueError(
            "Expected the path of a file, in a folder that exists, to save to. "
            f"Received: {path}."
        )


def _save(path, arrays, axis):
    """Save arrays as one `.npy` file, atomically; `axis` is that of the samples."""
    target = Path(os.path.realpath(path))
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with open(partial, "wb") as file:
            np.save(file, np.concatenate(arrays, axis=axis))
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def _named_paths(inputs, shapes):
    """Return the paths of several inputs by their names, from `NAME=PATH`."""
    pairs = [text.partition("=") for text in inputs]
    paths = {name: path for name, _, path in pairs if path}
    if paths.keys() != shapes.keys() or len(pairs) != len(shapes):
        raise ValueError(
            f"Expected NAME=PATH once for each of the inputs {[*shapes]}; streams are "
            f"for models of one input. Received: {' '.join(inputs)}."
        )
    return {name: paths[name] for name in shapes}


def _label(source):
    if isinstance(source, dict):
        return " ".join(f"{name}={path}" for name, path in source.items())
    return "standard input" if source == "-" else str(source)
