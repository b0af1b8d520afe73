"""Convert Keras models to `.tflite` files, and ensembles to bundles for devices."""

from keras_micronets.export.bundle import BundleMember, write_bundle, write_single
from keras_micronets.export.c_array import CArray, write_c_array
from keras_micronets.export.report import ExportReport
from keras_micronets.export.tflite import export_tflite

__all__ = [
    "BundleMember",
    "CArray",
    "ExportReport",
    "export_tflite",
    "write_bundle",
    "write_c_array",
    "write_single",
]
