"""From Keras models to `.tflite` files and bundles for devices."""

from keras_micronets.export.bundle import write_bundle
from keras_micronets.export.bundle_member import BundleMember
from keras_micronets.export.members import bundle_members
from keras_micronets.export.report import ExportReport
from keras_micronets.export.representative_data import readable_again
from keras_micronets.export.single_file import check_layout, write_single
from keras_micronets.export.size import zip_bytes
from keras_micronets.export.tflite import export_tflite
