"""Read image files as samples."""

import os
import warnings
from typing import Any

import numpy as np

__all__ = ["check_images", "read_image"]

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"),
    *(".ppm", ".pgm"),
)
#: Pillow's names of these formats; others, such as PostScript, start other programs.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
MODES = {(): "L", (1,): "L", (3,): "RGB"}


def read_image(path: str | os.PathLike, input_shape: tuple[int, ...]) -> np.ndarray:
    """Return an image file as one sample.

    The image is turned upright (EXIF), converted to grey or RGB as the model has one
    channel or three, without its transparency, and resized to the model's input
    with Pillow's bilinear filter. It is not cropped, so the proportions may change, as
    in `keras.utils.image_dataset_from_directory`; unlike there, a larger image is
    averaged, not sampled.

    Args:
        path: Path of an image of 8 bits per channel, in one of `FORMATS`. Only the
            first of several frames is read.
        input_shape: `(height, width, channels)`, `(channels, height, width)`, or
            `(height, width)` for grey.

    Returns:
        `uint8` array `(1, *input_shape)`, before the preprocessing of the manifest.

    Raises:
        ValueError: If Pillow is not installed, the model takes no images, or the file
            is not a complete image, or too large.
    """
    image_module, ops = check_images(input_shape)
    height, width, channels, is_first = _layout(input_shape)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", image_module.DecompressionBombWarning)
            with image_module.open(path, formats=FORMATS) as image:
                _check_depth(image)
                upright = ops.exif_transpose(image).convert(MODES[channels])
        resized = upright.resize((width, height), image_module.Resampling.BILINEAR)
        pixels = np.asarray(resized, "uint8").reshape(height, width, *channels)
        pixels = pixels.transpose(2, 0, 1) if is_first else pixels
        return pixels.reshape(1, *input_shape)
    except Exception as error:  # Pillow's decoders raise many types for damage
        raise ValueError(
            f"Expected an image. Received: {path} ({_reason(error)})."
        ) from None


def check_images(input_shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Return Pillow's modules `Image` and `ImageOps`, if the model takes images.

    Raises:
        ValueError: If Pillow is not installed, or the model takes no images.
    """
    if len(input_shape) not in (2, 3) or _layout(input_shape)[2] not in MODES:
        raise ValueError(
            "Expected a model for images, with input shape (height, width, 1 or 3), "
            "or (1 or 3, height, width). "
            f"Received: input shape {tuple(input_shape)}."
        )
    try:
        from PIL import Image, ImageOps
    except ModuleNotFoundError:
        raise ValueError(
            "Expected Pillow, to read images. Received: no module PIL. "
            "Run: pip install pillow"
        ) from None
    return Image, ImageOps


def _layout(shape):
    """Return height, width, the channels as a tuple, and whether these come first."""
    is_first = len(shape) == 3 and shape[2:] not in MODES and shape[:1] in MODES
    if is_first:
        return *shape[1:], shape[:1], True
    return *shape[:2], shape[2:], False


def _check_depth(image):
    if image.mode.startswith(("I", "F")):
        raise ValueError(
            f"more than 8 bits per channel, mode {image.mode}; save as .npy"
        )


def _reason(error):
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return reason[:200]
