"""Write an ensemble as a bundle, a zip or one `.tflite` file."""

from keras_micronets.export.bundle.single_file import write_single
from keras_micronets.export.bundle.writer import BundleMember, write_bundle

__all__ = ["BundleMember", "write_bundle", "write_single"]
