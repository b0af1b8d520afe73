"""Sparse, quantised ensembles for small devices, from one Keras fit.

The names here are loaded when they are first used: `keras_micronets.edge` runs on
devices that have neither Keras nor TensorFlow.
"""

import importlib

from keras_micronets._version import __version__

_MODULES = ("callbacks", "channels", "edge", "export", "layers", "learners")
_MODULES += ("learning_rates", "ranges", "schedules", "selection", "sparsity")
_NAMES = {
    "EnsemblePruner": "keras_micronets.ensemble",
    "LearnerPool": "keras_micronets.learners",
    "export_tflite": "keras_micronets.export",
    "prune2edge": "keras_micronets.several_fits",
    "quantization_report": "keras_micronets.layers",
    "sparsity_report": "keras_micronets.layers",
    "strip": "keras_micronets.layers",
}

__all__ = ["__version__", *_MODULES, *_NAMES]


def __getattr__(name):
    if name in _MODULES:
        return importlib.import_module(f"keras_micronets.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'keras_micronets' has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
