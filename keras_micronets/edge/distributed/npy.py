"""Arrays as `.npy` bytes, and back: what comes over the network may be anything."""

import io
import math

import numpy as np

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
        version = np.lib.format.read_magic(file)
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(
            file, max_header_size=MAX_HEADER
        )
    except Exception as error:  # NumPy's parser raises many kinds, MemoryError too
        raise ValueError(f"Expected a .npy array. Received: {error!r:.200}") from None
    size = len(data) - file.tell()
    whole = len(shape) <= 8 and all(type(n) is int and n >= 0 for n in shape)
    if not (version == (1, 0) and dtype.kind in "buif" and whole):
        raise ValueError(
            f"Expected a .npy array of numbers. Received: {dtype}, version {version}."
        )
    if math.prod(shape) * dtype.itemsize != size:
        raise ValueError(
            f"Expected the bytes of {dtype} of shape {shape}. Received: {size} bytes."
        )
    flat = np.frombuffer(data, dtype, offset=file.tell())
    return flat.reshape(shape, order="F" if fortran else "C")
