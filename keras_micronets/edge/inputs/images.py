"""Samples out of image files."""

import os
import warnings

import numpy as np

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"),
    *(".ppm", ".pgm"),
)
#: Pillow's names for these; others, as PostScript, would start other programs.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
MODES = {(): "L", (1,): "L", (3,): "RGB"}


def read_image(path: str | os.PathLike, input_shape: tuple[int, ...]) -> np.ndarray:
    """Return an image file as one sample.

    The image is turned upright (EXIF), converted to grey or to RGB as the model has
    one channel or three, without its transparency, and resized to the model's input
    by Pillow's bilinear filter. Nothing is cropped, so that the proportions may
    change, as in `keras.utils.image_dataset_from_directory`; unlike there, what gets
    smaller is averaged, not sampled.

    Args:
        path: Path of an image of 8 bits a channel, in one of `FORMATS`. Of several
            frames the first one counts.
        input_shape: `(height, width, channels)`, or `(height, width)` for grey.

    Returns:
        `uint8` array `(1, *input_shape)`, before the preprocessing of the manifest.

    Raises:
        ValueError: If Pillow is not installed, the model takes no images, or the file
            is no whole image, or one of absurd size.

    Example:

    ```python
    read_image("dog.jpg", (32, 32, 3))  # (1, 32, 32, 3)
    ```
    """
    image_module, ops = check_images(input_shape)
    height, width = input_shape[:2]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", image_module.DecompressionBombWarning)
            with image_module.open(path, formats=FORMATS) as image:
                _check_depth(image)
                upright = ops.exif_transpose(image).convert(MODES[input_shape[2:]])
        resized = upright.resize((width, height), image_module.Resampling.BILINEAR)
        return np.asarray(resized, "uint8").reshape(1, *input_shape)
    except Exception as error:  # damage makes Pillow's decoders raise whatever
        raise ValueError(
            f"Expected an image. Received: {path} ({_reason(error)})."
        ) from None


def check_images(input_shape: tuple[int, ...]) -> tuple:
    """Return Pillow's modules `Image` and `ImageOps`, to read images for a model.

    Raises:
        ValueError: If Pillow is not installed, or the model takes no images.
    """
    if len(input_shape) not in (2, 3) or input_shape[2:] not in MODES:
        raise ValueError(
            "Expected a model of images, of input shape (height, width, 1 or 3), to "
            f"read images for. Received: input shape {tuple(input_shape)}."
        )
    try:
        from PIL import Image, ImageOps
    except ModuleNotFoundError:
        raise ValueError(
            "Expected Pillow, to read images. Received: no module PIL. "
            "Run: pip install pillow"
        ) from None
    return Image, ImageOps


def _check_depth(image):
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"more than 8 bits a channel, mode {image.mode}; save as .npy")


def _reason(error):
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return reason[:200]
