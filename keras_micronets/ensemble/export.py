"""Convert and score the members of an ensemble for an export."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_micronets import selection
from keras_micronets.edge import Alarm, EarlyExit, Member, choose_alarm
from keras_micronets.edge.alarm import reconstruction_error
from keras_micronets.edge.combine import combine
from keras_micronets.edge.early_exit import check_exits
from keras_micronets.edge.tasks import CLASS_TASKS, SpreadScale
from keras_micronets.ensemble.data import as_targets, read_inputs, read_pair
from keras_micronets.export import BundleMember
from keras_micronets.export.representative_data import reusable
from keras_micronets.export.tflite import convert_tflite

__all__ = [
    "choose_alarm_for",
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
    task: str,
    quantization: str | None,
    representative_data: Any,
    input_shape: Any = None,
) -> list[BundleMember]:
    """Convert Keras models to `.tflite` files; take files that exist already.

    Each file is loaded once, here: scores and manifest use the loaded model.

    Args:
        models: The members: Keras models, or `Member` objects.
        learners: The learners that they come from; empty for a loaded ensemble.
        from_logits: For each member, whether its output is logits.
        task: What they predict, one of `edge.TASKS`.
        quantization, representative_data, input_shape: As for `export_tflite`.

    Raises:
        ValueError: If a member is a function or leaves sizes open, or as
            `export_tflite` does.
    """
    data = reusable(representative_data)
    members = []
    for i, model in enumerate(models):
        learner = learners[i] if learners else None
        name = learner.name if learner else f"member-{i}"
        if isinstance(model, Member) and learner:
            content = learner.path.read_bytes()
            loaded = Member(content, name=name, from_logits=from_logits[i], task=task)
        elif isinstance(model, keras.Model):
            _check_sizes(model, input_shape)
            file = convert_tflite(
                model,
                f"{name}.tflite",
                quantization=quantization,
                representative_data=data,
                input_shape=input_shape,
            )
            content = file.content
            loaded = file.as_member(name, from_logits=from_logits[i], task=task)
        else:
            raise ValueError(
                "Expected members that are Keras models or .tflite files: no others "
                f"can be exported. Received: {name!r}, a function."
            )
        metadata = {key: getattr(learner, key) for key in _METADATA} if learner else {}
        members.append(
            BundleMember(name, content, from_logits[i], metadata, loaded, task=task)
        )
    return members


def _check_sizes(model, input_shape):
    shapes = [tuple(x.shape[1:]) for x in getattr(model, "inputs", None) or ()]
    if input_shape is None and any(None in shape for shape in shapes):
        raise ValueError(
            "Expected members of a known input size for a device. Received: "
            f"{model.name!r}, which takes {shapes}. Pass `input_shape`."
        )


def score_members(
    members: Sequence[BundleMember],
    data: Any,
    combination: dict[str, Any],
    class_names: Sequence[str] | None,
) -> dict[str, Any]:
    """Return the scores of exported files on `(x, y)` for the manifest.

    `combination` holds the arguments `rule`, `weights`, `temperature` and `task` of
    `edge.combine`; labels may be names of the classes, where these are known.
    """
    if data is None:
        return {}
    task = combination["task"]
    x, y = read_pair(data, task)
    predictions = _predict(members, x)
    together = combine(predictions, **combination)
    plain = _plain(predictions, combination)
    targets = as_targets(y, task, class_names)
    p, targets = targets.check(np.stack([*predictions, together, plain]))
    scores = [targets.score(one) for one in p]
    losses = [targets.mean_loss(one) for one in p]
    result = {
        "members": scores[: len(members)],
        "ensemble": scores[-2],
        "n_samples": len(together),
    }
    if not targets.has_classes:
        error = targets.loss(targets.terms(p[-2])) * np.square(targets.scale)
        return result | {
            "root_mean_squared_error": float(error.mean() ** 0.5),
            "how": "R² of these files and of the ensemble, and its error, run by LiteRT"
            " where they were exported, on the evaluation data given to export().",
        }
    return result | {
        "negative_log_likelihood": losses[-2],
        "without_temperature": losses[-1],
        "how": "Accuracy of these files, and the ensemble's negative log-likelihood "
        "with and without its temperature, run by LiteRT where they were exported, on "
        "the evaluation data given to export().",
    }


def fit_to_files(
    members: Sequence[BundleMember],
    data: Any,
    combination: dict[str, Any],
    spread_scale: SpreadScale | None,
    class_names: Sequence[str] | None,
) -> tuple[dict[str, Any], SpreadScale | None]:
    """Return the combination and the scale of the spread, fitted to the files on data.

    Classes have a temperature in their combination, numbers a scale. Without data, for
    votes, and where it does not pay, both are returned as they are.
    """
    task = combination["task"]
    if data is None or combination["rule"] == "vote":
        return combination, spread_scale
    x, y = read_pair(data, task)
    predictions = _predict(members, x)
    if task not in CLASS_TASKS:
        rule = {key: combination[key] for key in ("rule", "weights", "task")}
        scale = selection.choose_spread_scale(predictions, y, **rule)
        return combination, scale or spread_scale
    plain = _plain(predictions, combination)
    p, targets = as_targets(y, task, class_names).check(plain[None])
    temperature = selection.choose_temperature(
        *targets.rows(p[0]), default=combination["temperature"]
    )
    return combination | {"temperature": temperature}, spread_scale


def choose_exit(
    members: Sequence[BundleMember],
    data: Any,
    combination: dict[str, Any],
    class_names: Sequence[str] | None,
    tolerance: float,
) -> EarlyExit | None:
    """Return the early exit chosen on held-out data, or `None` without data."""
    if data is None:
        return None
    task = combination["task"]
    check_exits(task)
    x, y = read_pair(data, task)
    return selection.choose_early_exit(
        _predict(members, x),
        as_targets(y, task, class_names).y,
        combination=combination["rule"],
        weights=combination["weights"],
        temperature=combination["temperature"],
        tolerance=tolerance,
    )


def choose_alarm_for(
    members: Sequence[BundleMember],
    data: Any,
    combination: dict[str, Any],
    false_alarm_rate: float,
) -> Alarm | None:
    """Return the alarm chosen on held-out normal inputs, or `None` without data."""
    if data is None:
        return None
    if combination["task"] != "reconstruction":
        raise ValueError(
            "Expected `alarm_data` with the task 'reconstruction' only. Received: "
            f"task={combination['task']!r}. Leave it out."
        )
    x = read_inputs(data)
    together = combine(_predict(members, x), **combination)
    return choose_alarm(reconstruction_error(x, together), false_alarm_rate)


def _plain(predictions, combination):
    return combine(predictions, **combination | {"temperature": 1.0})


def _predict(members: Sequence[BundleMember], x: np.ndarray) -> np.ndarray:
    return np.stack([member.load(member.read()).predict(x) for member in members])
