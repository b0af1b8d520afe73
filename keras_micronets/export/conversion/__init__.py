"""Convert a Keras model to the bytes of a `.tflite` file."""

from keras_micronets.export.conversion.converter import (
    INTEGERS,
    QUANTIZATIONS,
    convert,
)

__all__ = ["INTEGERS", "QUANTIZATIONS", "convert"]
