"""Find the input files, and read each file or stream by its format."""

import io
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .images import SUFFIXES, read_image
from .npy import MAGIC, SkippedSample, read_arrays, read_npy
from .rows import TableFormat, TimedArray, read_lines
from .tables import read_table

__all__ = ["is_image", "list_files", "read_file", "read_files", "read_stream"]

TABLES = (".csv", ".tsv", ".txt")


def list_files(path: str | os.PathLike) -> list[Path]:
    """Return the images in a folder, sorted by name, or the path of a file alone.

    Raises:
        ValueError: If a folder contains no images.
    """
    path = Path(path)
    if not path.is_dir():
        return [path]
    images = sorted(file for file in path.iterdir() if is_image(file))
    if not images:
        raise ValueError(
            f"Expected images in the directory, {', '.join(SUFFIXES)}. "
            f"Received: {path}, with none."
        )
    return images


def is_image(path: Path) -> bool:
    """Return whether a file is read as an image, by its name."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def read_file(
    path: Path, input_shape: tuple[int, ...], **options: Any
) -> Iterator[np.ndarray | TimedArray | SkippedSample]:
    """Yield the samples of a file in parts.

    Args:
        path: Path of an image, of a table (`.csv`, `.tsv`, `.txt`), or else of a
            `.npy` file.
        input_shape: Shape of a sample.
        **options: Options of `read_table`. By default a tab separates the columns of a
            `.tsv`.

    Yields:
        Arrays `(samples, *input_shape)`, or `TimedArray`s of a table, and a
        `SkippedSample` in place of a bad row or sample, and for rows at the end of a
        table that do not fill a window.
    """
    if is_image(path):
        items = iter([read_image(path, input_shape)])
    elif path.suffix.lower() in TABLES:
        items = _read_table_file(path, input_shape, options)
    else:
        items = read_npy(path, input_shape)
    for item in items:
        if isinstance(item, SkippedSample):
            item = replace(item, message=f"{path}, {item.message}")
        yield item


def read_files(
    paths: Mapping[str, str | os.PathLike],
    shapes: Mapping[str, tuple[int, ...]],
    **options: Any,
) -> Iterator[dict[str, np.ndarray] | SkippedSample]:
    """Yield the samples of several inputs in parts, each input out of its own file.

    Args:
        paths: For each input, by its name, the path of a file as for `read_file`, or of
            a folder of images, one for each sample.
        shapes: Shape of a sample of each input.
        **options: Options of `read_table`.

    Yields:
        Dictionaries of arrays `(samples, *shape)`, without time stamps, and a
        `SkippedSample` for rows at the end of a table that do not fill a window.

    Raises:
        ValueError: If the inputs differ in their number of samples, a row or sample is
            bad, since the inputs of the later ones would no longer belong together, or
            as for `read_file`.
    """
    readers = {
        name: _read_all(path, shapes[name], options) for name, path in paths.items()
    }
    parts: dict[str, np.ndarray] = {}
    count = 0
    while True:
        for name in readers.keys() - parts.keys():
            for item in readers[name]:
                if not isinstance(item, SkippedSample):
                    parts[name] = item
                    break
                yield item
        if not parts:
            return
        if ended := sorted(readers.keys() - parts.keys()):
            more = ", ".join(sorted(parts))
            raise ValueError(
                "Expected as many samples of each input. Received: "
                f"{count} of {', '.join(ended)}, and more of {more}."
            )
        size = min(map(len, parts.values()))
        yield {name: parts[name][:size] for name in paths}
        count += size
        parts = {n: part[size:] for n, part in parts.items() if len(part) > size}


def read_stream(
    file: io.BufferedReader, input_shape: tuple[int, ...], **options: Any
) -> Iterator[np.ndarray | TimedArray | SkippedSample]:
    """Yield the samples of a stream, each as soon as it is complete.

    Args:
        file: The stream: `.npy` arrays one after the other, or lines as in
            `read_table`. The first byte decides, as no text starts like an array.
        input_shape: Shape of a sample.
        **options: Options of `read_table`.

    Yields:
        Arrays `(1, *input_shape)`, or `TimedArray`s, and a `SkippedSample` in place of
        a bad one.
    """
    if file.peek(1)[:1] == MAGIC[:1]:
        return read_arrays(file, input_shape)
    return read_table(read_lines(file), input_shape, **options)


def _read_all(path, input_shape, options):
    for file in list_files(path):
        for item in read_file(file, input_shape, **options):
            if isinstance(item, SkippedSample) and item.is_error:
                raise ValueError(item.message)
            yield item.values if isinstance(item, TimedArray) else item


def _read_table_file(path, input_shape, options):
    table_format = options.get("table_format") or TableFormat()
    if path.suffix.lower() == ".tsv" and table_format.delimiter is None:
        options = options | {"table_format": replace(table_format, delimiter="\t")}
    with open(path, "rb") as file:
        yield from read_table(read_lines(file), input_shape, **options)
