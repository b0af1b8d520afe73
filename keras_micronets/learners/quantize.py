"""Convert the Keras learners of a pool to int8 `.tflite` learners."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from keras_micronets.export import export_tflite
from keras_micronets.learners.learner import Learner

__all__ = ["check_keras", "check_source", "quantize_learner"]


def quantize_learner(learner: Learner, path: Path, representative_data: Any) -> dict:
    """Write the int8 `.tflite` file of a Keras learner, and return its metadata."""
    report = export_tflite(
        learner.load(), path, representative_data=representative_data
    )
    of_the_file = ("directory", "name", "file", "sha256", "n_bytes", "created")
    return learner.to_dict(exclude=of_the_file) | {
        "architecture": "tflite",
        "gzip_bytes": report.gzip_bytes,
        "quantized": True,
        "source": learner.sha256,
        "origin": f"{learner.origin}; int8, ranges {report.calibration}",
    }


def check_keras(learners: Iterable[Learner]) -> None:
    """Raise a `ValueError` unless all learners are Keras models."""
    others = [learner.name for learner in learners if not learner.is_keras]
    if others:
        raise ValueError(
            "Expected learners that are Keras models. Received: "
            f"{', '.join(others[:5])}, which are `.tflite` files already."
        )


def check_source(quantized: Iterable[Learner], learners: Iterable[Learner]) -> None:
    """Raise a `ValueError` if quantised learners were made from others of their names.

    That happens when the learners were trained again under the same names.
    """
    sources = {learner.name: learner.source for learner in quantized}
    others = [x.name for x in learners if sources.get(x.name, x.sha256) != x.sha256]
    if others:
        raise ValueError(
            "Expected a free path, or the pool of these learners as int8. Received: "
            f"one whose {', '.join(others[:5])} came from other learners. Choose "
            "another `path`, or remove that folder."
        )
