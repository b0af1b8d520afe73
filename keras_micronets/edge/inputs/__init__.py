"""Read the samples of arrays, images, tables of sensor readings, and streams."""

from .files import is_image, list_files, read_file, read_files, read_stream
from .images import check_images, read_image
from .npy import SkippedSample, read_arrays, read_npy
from .rows import TableFormat, TimedArray, read_lines
from .tables import read_table

__all__ = [
    "SkippedSample",
    "TableFormat",
    "TimedArray",
    "check_images",
    "is_image",
    "list_files",
    "read_arrays",
    "read_file",
    "read_files",
    "read_image",
    "read_lines",
    "read_npy",
    "read_stream",
    "read_table",
]
