"""Sparse, quantised ensembles for small devices, from one Keras fit.

The names here are loaded when they are first used: `keras_micronets.edge` runs on
devices that have neither Keras nor TensorFlow. If Keras is imported before this
package, all classes are registered, and `keras.saving.load_model` finds those that
a file names.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

from keras_micronets._version import __version__

if TYPE_CHECKING:
    from keras_micronets import (
        callbacks,
        channels,
        edge,
        export,
        layers,
        learners,
        learning_rates,
        losses,
        schedules,
        selection,
        sparsity,
    )
    from keras_micronets.compression import compress
    from keras_micronets.distillation import distill, split_augmentation
    from keras_micronets.ensemble import EnsemblePruner
    from keras_micronets.export import export_tflite
    from keras_micronets.joint_training import side_by_side
    from keras_micronets.layers import quantization_report, sparsity_report, strip
    from keras_micronets.layers.quantizers import observers
    from keras_micronets.learners import LearnerPool
    from keras_micronets.prune2edge import train_prune2edge

__all__ = [
    "EnsemblePruner",
    "LearnerPool",
    "__version__",
    "callbacks",
    "channels",
    "compress",
    "distill",
    "edge",
    "export",
    "export_tflite",
    "layers",
    "learners",
    "learning_rates",
    "losses",
    "observers",
    "quantization_report",
    "schedules",
    "selection",
    "side_by_side",
    "sparsity",
    "sparsity_report",
    "split_augmentation",
    "strip",
    "train_prune2edge",
]

# Where the names are defined that are not modules of this package.
_DEFINED_IN = {
    "EnsemblePruner": "ensemble",
    "LearnerPool": "learners",
    "compress": "compression",
    "distill": "distillation",
    "export_tflite": "export",
    "observers": "layers.quantizers",
    "quantization_report": "layers",
    "side_by_side": "joint_training",
    "sparsity_report": "layers",
    "split_augmentation": "distillation",
    "strip": "layers",
    "train_prune2edge": "prune2edge",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_DEFINED_IN.get(name, name)}")
    return getattr(module, name) if name in _DEFINED_IN else module


def __dir__() -> list[str]:
    return sorted(__all__)


if sys.modules.get("keras") is not None:
    # Keras imports no other package's modules for the classes that a file names.
    for _name in ("callbacks", "ensemble", "losses"):
        importlib.import_module(f"{__name__}.{_name}")
