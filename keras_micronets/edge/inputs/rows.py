"""Read rows of numbers from the text files that loggers and spreadsheets write."""

import csv
import re
import reprlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from .npy import SkippedSample

__all__ = ["TableFormat", "TimedArray", "read_lines", "read_rows"]

MAX_LINE = 2**20
#: Most lines of names, units and the like before the first row of numbers.
MAX_HEADERS = 3
SWAPPED = str.maketrans(",.", ".,")
#: How numbers, dates and times begin, but not the unit `1/min`.
NUMBER = re.compile(r"(?!1/\D)[+-]?[.,]?\d")


@dataclass(frozen=True)
class TableFormat:
    """Describe how a table is written.

    Args:
        columns: Names in the header, or indices from 0, of the columns to read, in the
            order of the model's channels. Defaults to `None`, all but that of `time`.
        time: Name or index of the column of time stamps, which are kept as text.
            Defaults to `None`, no such column.
        skip: Number of lines to leave out before the header. Defaults to `0`.
        delimiter: Character between columns; a space stands for any number of spaces
            and tabs. Defaults to `None`: a semicolon if `decimal` is a comma, otherwise
            a comma.
        decimal: Decimal mark, `"."` or `","`. Defaults to `"."`.

    Raises:
        ValueError: If an argument is invalid.
    """

    columns: Sequence[str | int] | None = None
    time: str | int | None = None
    skip: int = 0
    delimiter: str | None = None
    decimal: str = "."

    def __post_init__(self) -> None:
        mark = self.separator
        if len(mark) != 1 or mark in '\r\n"' or mark == self.decimal:
            raise ValueError(
                "Expected a delimiter of one character, other than the decimal mark. "
                f"Received: --delimiter {mark!r}, --decimal {self.decimal!r}."
            )
        if self.decimal not in (".", ",") or self.skip < 0:
            raise ValueError(
                "Expected a point or comma as --decimal, and at least 0 lines to "
                f"--skip. Received: {self.decimal!r}, {self.skip}."
            )

    @property
    def separator(self) -> str:
        """The delimiter, or its default."""
        if self.delimiter is None:
            return ";" if self.decimal == "," else ","
        return self.delimiter

    def split(self, line: str) -> list[str]:
        """Return the cells of a line."""
        if self.separator == " ":
            return line.split()
        cells = csv.reader([line], delimiter=self.separator)
        return [*map(str.strip, next(cells, []))]

    def number(self, cell: str) -> float | None:
        """Return the number in a cell, or `None`."""
        text = cell.translate(SWAPPED) if self.decimal == "," else cell
        try:
            return None if "_" in text else float(text)
        except ValueError:
            return None


class TimedArray(NamedTuple):
    """Hold a row, or a sample, and the time stamp of its last row, if there is one."""

    values: np.ndarray
    time: str | None


def read_lines(file: BinaryIO) -> Iterator[str]:
    """Yield the lines of a text file, each as soon as it is complete.

    The text is in UTF-8, or in UTF-16 if its first two bytes are a byte order mark.
    """
    encoding, text = "", ""
    for line in iter(lambda: file.readline(MAX_LINE), b""):
        encoding = encoding or _encoding(line)
        if encoding != "utf-8":  # each unit is two bytes, of which one may be `\n`
            line += file.read(len(line) % 2)
        text += line.decode(encoding, "replace")
        if text.endswith("\n") or len(text) >= MAX_LINE // 2:
            yield text.removeprefix("\ufeff")
            text = ""
    if text:
        yield text.removeprefix("\ufeff")


def read_rows(
    lines: Iterable[str], widths: set[int], table_format: TableFormat
) -> Iterator[TimedArray | SkippedSample]:
    """Yield the rows of a table, `float32`, and a `SkippedSample` for each bad one.

    Empty lines, comments (`#`), and up to three lines of names and units before the
    first row are left out. The first row decides which of the `widths`, numbers of
    values, all rows have.

    Raises:
        ValueError: If there are no rows, or not the columns of the format.
    """
    reader = _RowReader(table_format, widths)
    number, is_empty = 0, True
    for number, line in enumerate(lines, 1):
        if number <= table_format.skip:
            continue
        try:
            if reader.is_text(line):
                continue
            reader.find_columns()
            row = reader.read(line, table_format)
        except (_RowError, csv.Error) as error:
            row = SkippedSample(f"line {number}: {error}{reader.hint(line)}.")
        if row is not None:
            is_empty = False
            yield row
    if is_empty:
        raise ValueError(
            "Expected rows of numbers; check --skip, --delimiter and --decimal. "
            f"Received: {number} lines, none with numbers."
        )


class _RowError(Exception):
    """Report a row that is skipped."""


class _RowReader:
    """Read the lines of a table one by one; the first row decides for later ones."""

    def __init__(self, table_format: TableFormat, widths: set[int]) -> None:
        self.format, self.widths = table_format, widths
        wanted = [*(table_format.columns or ()), table_format.time]
        self.names = {x for x in wanted if isinstance(x, str) and not x.isdecimal()}
        self.headers: list[list[str]] = []
        self.columns: list[int] | None = None
        self.time: int | None = None
        self.width: int | None = None  # number of cells, once a row was read

    def is_text(self, line: str) -> bool:
        """Return whether a line is a comment, or before the first row no row."""
        is_comment = line.lstrip().startswith("#")
        if self.width is not None:
            return is_comment
        cells = self.format.split(line.lstrip("# \t") if is_comment else line)
        if not any(cells):
            return True
        is_header = bool(self.names) and self.names <= {*cells}
        if not is_header and not is_comment and len(self.headers) < MAX_HEADERS:
            is_header = not any(
                NUMBER.match(x) or self.format.number(x) is not None for x in cells
            )
        if is_header and len(self.headers) <= MAX_HEADERS:
            self.headers.append(cells)
        return is_header or is_comment

    def find_columns(self) -> None:
        """Find the indices of the columns, before the first row is read."""
        if self.width is not None:
            return
        header = next((x for x in self.headers if self.names <= {*x}), [])
        if any(header.count(name) != 1 for name in self.names):
            raise ValueError(
                f"Expected a header that names {sorted(self.names)} once each; leave "
                "out the lines before it with --skip, set --delimiter, or give indices "
                f"from 0. Received: {(header or [*self.headers, 'none'][0])}."
            )
        index: dict[Any, int] = {name: header.index(name) for name in self.names}
        columns, time = self.format.columns, self.format.time
        self.time = None if time is None else int(index.get(time, time))
        self.columns = (
            None if columns is None else [int(index.get(x, x)) for x in columns]
        )
        if self.columns is None and (self.time or 0) > max(self.widths):
            raise ValueError(
                f"Expected --time up to {max(self.widths)}. Received: {self.time}."
            )
        if columns is not None and len(columns) not in self.widths:
            raise ValueError(
                f"Expected {_either(self.widths)} --columns, as the model's input has. "
                f"Received: {len(columns)}."
            )

    def read(self, line: str, table_format: TableFormat) -> TimedArray | None:
        """Return the row of a line, or `None` for an empty one."""
        cells, time = table_format.split(line), self.time
        if not any(cells):
            return None
        if self.width is not None:
            allowed = {self.width}
        elif self.columns is not None:
            allowed = {max(len(cells), 1 + (time or 0), *(i + 1 for i in self.columns))}
        else:
            sizes = {n + (time is not None) for n in self.widths}
            allowed = {n for n in sizes if n > (time or 0)}
        if not cells[-1] and len(cells) not in allowed:
            cells.pop()  # after a delimiter at the end
        if len(cells) not in allowed:
            count = len(cells)
            raise _RowError(f"Expected {_either(allowed)} columns. Received: {count}")
        columns = self.columns
        if columns is None:
            columns = [i for i in range(len(cells)) if i != time]
        numbers = [table_format.number(cells[i]) for i in columns]
        with np.errstate(over="ignore"):  # gives infinity, which is rejected
            values = np.array(numbers, "float32")  # None becomes NaN
        if not np.isfinite(values).all():
            cell = reprlib.repr(cells[columns[int(np.isfinite(values).argmin())]])
            raise _RowError(f"Expected finite numbers. Received: {cell}")
        self.width, self.widths = len(cells), {len(values)}
        return TimedArray(values, None if time is None else _printable(cells[time]))

    def hint(self, line: str) -> str:
        """Return the options with which the first row can perhaps be read."""
        if self.width is not None:
            return ""
        times = [self.time] if self.time or self.columns else [self.time, 0]
        other = _RowReader(self.format, self.widths)
        other.columns = self.columns
        for other.time, decimal, mark in product(times, ".,", ",;\t| "):
            options = {"time": other.time, "delimiter": mark, "decimal": decimal}
            try:
                other.read(line, replace(self.format, **options))
            except (_RowError, csv.Error, ValueError):
                continue
            now = {"time": self.time, "delimiter": self.format.separator}
            now["decimal"] = self.format.decimal
            changed = [f"--{k} {v!r}" for k, v in options.items() if v != now[k]]
            return f"; perhaps {' '.join(changed)}"
        return "; see --columns, --time, --skip, --delimiter and --decimal"


def _encoding(start):
    marks = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}
    return marks.get(start[:2], "utf-8")


def _either(numbers):
    return " or ".join(map(str, sorted(numbers)))


def _printable(text):
    return text if text.isprintable() else ascii(text)[1:-1]
