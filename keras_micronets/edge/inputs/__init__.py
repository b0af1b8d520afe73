"""What `predict` reads: arrays, images, tables of sensor readings, and streams."""

from .files import is_image, list_files, read_file
from .images import check_images, read_image
from .npy import read_arrays, read_npy
from .problem import Problem
from .stream import read_stream
from .tables import read_lines, read_table
