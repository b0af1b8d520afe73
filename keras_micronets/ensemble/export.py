"""Convert and score the members of an ensemble for an export."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_micronets import selection
from keras_micronets.edge import EarlyExit, Member
from keras_micronets.edge.combine import combine
from keras_micronets.export import BundleMember
from keras_micronets.export.representative_data import reusable
from keras_micronets.export.tflite import convert_tflite

__all__ = [
    "choose_exit",
    "choose_format",
    "convert_members",
    "fit_to_files",
    "score_members",
]

_SUFFIXES = {"bundle": "", "zip": ".zip", "tflite": ".tflite"}
_METADATA = ("sparsity", "epoch", "seed", "origin", "metrics")


def choose_format(
    path: str | os.PathLike,
    format: str | None,
    unknown: dict[str, Any],
    **only_in_bundles: Any,
) -> str:
    """Return the format of an export; only Keras's own formats are not checked.

    Args:
        path: Where the export goes.
        format: `"bundle"`, `"zip"`, `"tflite"`, a format of `keras.Model.export`, or
            `None` to infer it from the suffix of the path.
        unknown: Arguments that only Keras's formats may take.
        **only_in_bundles: Arguments that one `.tflite` file cannot hold; `None` where
            they were not given.

    Raises:
        ValueError: If the format does not fit the path or the arguments.
        TypeError: If there are unknown arguments.
    """
    suffix = Path(path).suffix.lower()
    inferred = {s: name for name, s in _SUFFIXES.items()}.get(suffix, "bundle")
    format = inferred if format is None else format
    if format not in _SUFFIXES:
        return format
    if unknown:
        raise TypeError(
            f"Expected no arguments that format={format!r} does not know. Received: "
            f"{', '.join(unknown)}. The suffix of the path, or `format`, decides "
            f"between a folder, a zip and one .tflite file: {list(_SUFFIXES)}."
        )
    if format != inferred:
        ending = _SUFFIXES[format] or "neither .zip nor .tflite"
        raise ValueError(
            f"Expected a path that ends in {ending} for format={format!r}. Received: "
            f"{os.fspath(path)!r}. Change the path, or leave `format` out."
        )
    given = [name for name, value in only_in_bundles.items() if value is not None]
    if format == "tflite" and given:
        raise ValueError(
            "Expected only arguments that one .tflite file can hold. Received: "
            f"format='tflite' and {', '.join(given)}. Leave them out, or export a "
            "bundle."
        )
    return format


def convert_members(
    models: Sequence[Any],
    learners: Sequence[Any],
    from_logits: Sequence[bool],
    *,
    quantization: str | None,
    representative_data: Any,
) -> list[BundleMember]:
    """Convert Keras models to `.tflite` files; take files that exist already.

    Each file is loaded once, here: scores and manifest use the loaded model.

    Args:
        models: The members: Keras models, or `Member` objects.
        learners: The learners that they come from; empty for a loaded ensemble.
        from_logits: For each member, whether its output is logits.
        quantization, representative_data: As for `export_tflite`.

    Raises:
        ValueError: If a member is a function, or as `export_tflite` does.
    """
    data = reusable(representative_data)
    members = []
    for i, model in enumerate(models):
        learner = learners[i] if learners else None
        name = learner.name if learner else f"member-{i}"
        if isinstance(model, Member) and learner:
            content = learner.path.read_bytes()
            loaded = Member(content, name=name, from_logits=from_logits[i])
        elif isinstance(model, keras.Model):
            file = convert_tflite(
                model,
                f"{name}.tflite",
                quantization=quantization,
                representative_data=data,
            )
            content = file.content
            loaded = file.as_member(name, from_logits=from_logits[i])
        else:
            raise ValueError(
                "Expected members that are Keras models or .tflite files: no others "
                f"can be exported. Received: {name!r}, a function."
            )
        metadata = {key: getattr(learner, key) for key in _METADATA} if learner else {}
        members.append(BundleMember(name, content, from_logits[i], metadata, loaded))
    return members


def score_members(
    members: Sequence[BundleMember], data: tuple | None, combination: dict[str, Any]
) -> dict[str, Any]:
    """Return the scores of exported files on `(x, y)` for the manifest.

    `combination` holds the arguments `rule`, `weights` and `temperature` of
    `edge.combine`.
    """
    if data is None:
        return {}
    probabilities = _predict(members, data[0])
    together = combine(probabilities, **combination)
    plain = _combine_plain(probabilities, combination)
    y = selection.as_labels(data[1], together.shape[-1], together.shape[0])
    loss = selection.negative_log_likelihood(np.stack([together, plain]), y)
    return {
        "members": [float(score) for score in selection.accuracy(probabilities, y)],
        "ensemble": float(selection.accuracy(together[None], y)[0]),
        "negative_log_likelihood": float(loss[0]),
        "without_temperature": float(loss[1]),
        "n_samples": len(together),
        "how": "Accuracy of these files, and the ensemble's negative log-likelihood "
        "with and without its temperature, run by LiteRT where they were exported, on "
        "the evaluation data given to export().",
    }


def fit_to_files(
    members: Sequence[BundleMember], data: tuple | None, combination: dict[str, Any]
) -> dict[str, Any]:
    """Return the combination, with its temperature fitted to the files on `(x, y)`.

    Without data, and for votes, it is returned as it is.
    """
    if data is None or combination["rule"] == "vote":
        return combination
    plain = _combine_plain(_predict(members, data[0]), combination)
    temperature = selection.choose_temperature(
        plain, data[1], default=combination["temperature"]
    )
    return combination | {"temperature": temperature}


def choose_exit(
    members: Sequence[BundleMember],
    data: tuple | None,
    combination: dict[str, Any],
    tolerance: float,
) -> EarlyExit | None:
    """Return the early exit chosen on held-out data, or `None` without data."""
    if data is None:
        return None
    return selection.choose_early_exit(
        _predict(members, data[0]),
        data[1],
        combination=combination["rule"],
        weights=combination["weights"],
        temperature=combination["temperature"],
        tolerance=tolerance,
    )


def _combine_plain(probabilities, combination):
    return combine(
        probabilities, rule=combination["rule"], weights=combination["weights"]
    )


def _predict(members: Sequence[BundleMember], x: Any) -> np.ndarray:
    x = np.asarray(x)
    return np.stack([member.load(member.read()).predict(x) for member in members])
