"""Describe predictions as lines of text and of JSON, by the task of a bundle."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from ..alarm import reconstruction_error
from ..bundle.manifest import Manifest
from ..inputs import is_image

__all__ = ["Description", "format_json", "format_text", "is_image_source"]


class Description:
    """Describe the predictions for some samples.

    A class is described by its index, name and probability, labels by those of at least
    one half, numbers by themselves, and a reconstruction by its error and the alarm.

    Args:
        manifest: The `Manifest` of the bundle.
        x: The raw inputs, as for `EnsembleRunner.predict`.
    """

    def __init__(self, manifest: Manifest, x: Any) -> None:
        self.names, self.alarm = manifest.class_names, manifest.alarm
        self._fields = getattr(self, f"_{manifest.task}")
        self._x = manifest.preprocessing(x)

    def fields(self, row: int, prediction: np.ndarray) -> dict[str, Any]:
        """Return the JSON values for one sample."""
        return self._fields(row, prediction)

    def text(self, row: int, prediction: np.ndarray) -> str:
        """Return one line for one sample."""
        values = self._fields(row, prediction)
        if "class" in values:
            name = f" {values['name']}" if values["name"] else ""
            return f"{values['class']}{name} {values['probability']:.4f}"
        if "labels" in values:
            return (
                "  ".join(
                    f"{one['name'] or one['label']} {one['probability']:.4f}"
                    for one in values["labels"]
                )
                or "no label"
            )
        if "score" in values:
            alarm = {True: "  ALARM", False: "  normal", None: ""}[values["alarm"]]
            return f"score {values['score']:.6g}{alarm}"
        numbers = np.ravel(values["values"])
        names = self.names or [None] * len(numbers)
        pairs = zip(names, numbers, strict=True)
        return "  ".join(f"{n} {x:.6g}" if n else f"{x:.6g}" for n, x in pairs)

    def _multiclass(self, row, probabilities):
        best = int(probabilities.argmax())
        return {
            "class": best,
            "name": self.names[best] if self.names else None,
            "probability": round(float(probabilities[best]), 6),
        }

    def _binary(self, row, probabilities):
        event = probabilities[0]
        return self._multiclass(row, np.array([1 - event, event]))

    def _multilabel(self, row, probabilities):
        labels = [
            {
                "label": label,
                "name": self.names[label] if self.names else None,
                "probability": round(float(probabilities[label]), 6),
            }
            for label in np.flatnonzero(probabilities >= 0.5).tolist()
        ]
        return {"labels": labels}

    def _regression(self, row, values):
        return {"values": np.asarray(values, "float64").round(6).tolist()}

    def _reconstruction(self, row, values):
        score = float(reconstruction_error(self._x[row : row + 1], values[None])[0])
        alarm = None if self.alarm is None else score > self.alarm.threshold
        return {"score": round(score, 9), "alarm": alarm}


def format_text(
    index: int, source: Any, row: int, predictions: Any, describe: Any, time: Any
) -> str:
    """Return the line for one row of predictions, sample `index` of all inputs."""
    label = source if is_image_source(source) else index
    label = label if time is None else f"{label} at {time}"
    parts = [describe.text(row, predictions.ensemble[row])]
    for name, values in predictions.members.items():
        parts.append(f"{name}: {describe.text(row, values[row])}")
    if predictions.answered:
        missing = ", ".join(predictions.missing)
        without = f"; without {missing}" if missing else ""
        parts.append(f"({', '.join(predictions.answered)}{without})")
    return f"{label}: {'  '.join(parts)}"


def format_json(
    index: int, source: Any, row: int, predictions: Any, describe: Any, time: Any
) -> str:
    """Return the same as a JSON object."""
    file = source if isinstance(source, dict) else str(source)
    file = None if source == "-" else file
    values: dict[str, Any] = {"index": index, "file": file}
    values |= {} if time is None else {"time": time}
    values |= describe.fields(row, predictions.ensemble[row])
    if predictions.members:
        values["members"] = [
            {"member": name, **describe.fields(row, outputs[row])}
            for name, outputs in predictions.members.items()
        ]
    if predictions.answered:
        values |= {"answered": predictions.answered, "missing": predictions.missing}
    return json.dumps(values)


def is_image_source(source: Any) -> bool:
    """Return whether an input is the path of an image."""
    return isinstance(source, Path) and is_image(source)
