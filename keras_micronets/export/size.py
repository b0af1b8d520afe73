"""What files weigh."""

import gzip
import io
import os
import zipfile

import keras
import numpy as np

from keras_micronets.edge.bundle.files import BundleFiles
from keras_micronets.edge.bundle.manifest import Manifest
from keras_micronets.layers import clone, kernels, prepare

_LEVELS = 127
_FLATBUFFER_BYTES = 2500  # the operations and scales of a small net's file


def gzip_size(content: bytes) -> int:
    """Return the size in bytes of content after gzip at its highest level."""
    return len(gzip.compress(content, 9, mtime=0))


def zip_bytes(directory: str | os.PathLike) -> int:
    """Return the size in bytes of a bundle's models together as one deflated zip."""
    buffer = io.BytesIO()
    with (
        BundleFiles(directory) as files,
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
    ):
        for member in Manifest.read_from(files).members:
            archive.writestr(member.file, files.read(member.file))
    return len(buffer.getvalue())


def estimate_int8_gzip_size(model: keras.Model) -> int:
    """Estimate the gzipped size of a model's int8 file, without making it.

    Kernels count as the gzipped integers they round to, zeros of the mask included,
    and every other trainable weight as four bytes.

    Args:
        model: A built model; a plain one is prepared for that, as a copy.
    """
    if not kernels(model):
        model = clone(model)
        prepare(model)
    handles = kernels(model)
    rounded = [_round(kernel.weights * kernel.mask) for kernel in handles]
    trainable = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    n_others = trainable - sum(kernel.size for kernel in handles)
    return gzip_size(b"".join(rounded)) + 4 * n_others + _FLATBUFFER_BYTES


def _round(weights):
    largest = np.abs(weights).max() or 1.0
    return np.rint(weights / largest * _LEVELS).astype("int8").tobytes()
