"""What `predict` reads: arrays, images, tables of sensor readings, and streams."""

from .files import is_image, list_files, read_file, read_stream
from .images import check_images, read_image
from .npy import SkippedSample, read_arrays, read_npy
from .tables import read_lines, read_table
