"""Arrays as `.npy` bytes, and back: what comes over the network may be anything."""

import io

import numpy as np

from ..inputs.npy import read_header
from .message import MAX_PAYLOAD

MAX_HEADER = 512


def pack(array: np.ndarray) -> bytes:
    """Return an array of numbers as the bytes of a `.npy` file.

    Raises:
        ValueError: If it holds no numbers, or more than `MAX_PAYLOAD` bytes.
    """
    if array.dtype.kind not in "buif" or array.nbytes > MAX_PAYLOAD - MAX_HEADER:
        raise ValueError(
            f"Expected numbers, at most {MAX_PAYLOAD - MAX_HEADER:,} bytes of them; "
            f"send fewer samples at a time. Received: {array.nbytes:,} bytes of "
            f"{array.dtype}."
        )
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version=(1, 0), allow_pickle=False)
    return file.getvalue()


def unpack(data: bytes) -> np.ndarray:
    """Return the array that the bytes of a `.npy` file hold; it cannot be written to.

    Nothing is unpickled, and no memory is taken for what the header only claims.

    Raises:
        ValueError: If the bytes are anything but one array of numbers.
    """
    if len(data) > MAX_PAYLOAD:
        raise ValueError(f"Expected at most {MAX_PAYLOAD:,} bytes. Received: more.")
    file = io.BytesIO(data)
    try:
        header = read_header(file, most=MAX_HEADER)
    except ValueError as error:
        raise ValueError(f"Expected a .npy array. Received: {error}") from None
    size = len(data) - file.tell()
    if data[6:8] != b"\1\0" or len(header.shape) > 8:
        raise ValueError(
            "Expected a .npy array of version 1.0, of at most 8 dimensions. Received: "
            f"version {data[6]}.{data[7]}, {len(header.shape)} dimensions."
        )
    if header.n_bytes != size:
        raise ValueError(
            f"Expected the bytes of {header.dtype} of shape {header.shape}. "
            f"Received: {size} bytes."
        )
    flat = np.frombuffer(data, header.dtype, offset=file.tell())
    return flat.reshape(header.shape, order="F" if header.is_fortran else "C")
