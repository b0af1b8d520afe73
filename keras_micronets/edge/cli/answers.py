"""What `predict` and `ask` print and save."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..inputs import is_image


@dataclass(frozen=True)
class Answers:
    """Hold what was said of some samples.

    Args:
        ensemble: Probabilities of the ensemble, of shape `(samples, classes)`.
        members: Those of each member that is to be shown, by its name. Defaults to
            none.
        answered, missing: Names of the members that were asked elsewhere, and did
            answer or did not. Default to none.
    """

    ensemble: np.ndarray
    members: dict[str, np.ndarray] = field(default_factory=dict)
    answered: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def saved(self) -> np.ndarray:
        """What `--output` keeps: the members' probabilities, if these are shown."""
        return np.stack([*self.members.values()]) if self.members else self.ensemble


def as_text(index, source, row: int, answers: Answers, class_names) -> str:
    """Return the line of a sample: its number, or the image's name, and its class.

    Args:
        index: Number of the sample, the row in what is saved.
        source: Path of the file, or `"-"`.
        row: Which of the samples of `answers` it is.
        answers: What was said.
        class_names: One a class, or `None`.
    """
    label = source if source != "-" and is_image(source) else index
    said = [_choice(answers.ensemble[row], class_names)]
    for name, probabilities in answers.members.items():
        said.append(f"{name}: {_choice(probabilities[row], class_names)}")
    if answers.answered:
        without = f"; without {', '.join(answers.missing)}" if answers.missing else ""
        said.append(f"({', '.join(answers.answered)}{without})")
    return f"{label}: {'  '.join(said)}"


def as_json(index, source, row: int, answers: Answers, class_names) -> str:
    """Return the line of a sample as a JSON object; arguments as for `as_text`."""
    file = None if source == "-" else str(source)
    said = {"index": index, "file": file, **_named(answers.ensemble[row], class_names)}
    if answers.members:
        said["members"] = [
            {"member": name, **_named(probabilities[row], class_names)}
            for name, probabilities in answers.members.items()
        ]
    if answers.answered:
        said |= {"answered": answers.answered, "missing": answers.missing}
    return json.dumps(said)


def check_output(path: str | None) -> None:
    """Raise a `ValueError` if no file can be put at a path; `None` is no path."""
    if path is None:
        return
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir() or (target.exists() and not target.is_file()):
        raise ValueError(
            "Expected the path of a file, in a folder that exists, to save to. "
            f"Received: {path}."
        )


def save(path: str, answers: list[np.ndarray]) -> None:
    """Save probabilities as one `.npy` file, as a whole or not at all.

    Args:
        path: Where to; an older file is replaced.
        answers: Arrays `(..., samples, classes)`.
    """
    target = Path(os.path.realpath(path))
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with open(partial, "wb") as file:
            np.save(file, np.concatenate(answers, axis=-2))
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def _choice(probabilities, class_names):
    best = int(probabilities.argmax())
    name = f" {class_names[best]}" if class_names else ""
    return f"{best}{name} {probabilities[best]:.4f}"


def _named(probabilities, class_names):
    best = int(probabilities.argmax())
    return {
        "class": best,
        "name": class_names[best] if class_names else None,
        "probability": round(float(probabilities[best]), 6),
    }
