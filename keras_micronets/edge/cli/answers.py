"""What `predict` prints and saves."""

import json
import os
from pathlib import Path

import numpy as np

from ..inputs import is_image


def as_text(index, source, probabilities, members, runner) -> str:
    """Return the line of a sample: its number, or the image's name, and its class.

    Args:
        index: Number of the sample, the row in what is saved.
        source: Path of the file, or `"-"`.
        probabilities: What the ensemble says, of shape `(classes,)`.
        members: What every member says, each of shape `(classes,)`; or none.
        runner: The `EnsembleRunner`, for the names.
    """
    label = source if source != "-" and is_image(source) else index
    said = [_choice(probabilities, runner)]
    for member, row in zip(runner.members, members, strict=False):
        said.append(f"{member.name}: {_choice(row, runner)}")
    return f"{label}: {'  '.join(said)}"


def as_json(index, source, probabilities, members, runner) -> str:
    """Return the line of a sample as a JSON object; arguments as for `as_text`."""
    file = None if source == "-" else str(source)
    answer = {"index": index, "file": file, **_named(probabilities, runner)}
    if len(members):
        answer["members"] = [
            {"member": member.name, **_named(row, runner)}
            for member, row in zip(runner.members, members, strict=True)
        ]
    return json.dumps(answer)


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


def _choice(probabilities, runner):
    best = int(probabilities.argmax())
    name = f" {runner.class_names[best]}" if runner.class_names else ""
    return f"{best}{name} {probabilities[best]:.4f}"


def _named(probabilities, runner):
    best = int(probabilities.argmax())
    return {
        "class": best,
        "name": runner.class_names[best] if runner.class_names else None,
        "probability": round(float(probabilities[best]), 6),
    }
