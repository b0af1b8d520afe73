"""The files of an ensemble's members."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from keras_micronets.edge import Member
from keras_micronets.export.bundle.member import BundleMember
from keras_micronets.export.representative_data import readable_again
from keras_micronets.export.tflite import export_tflite

LAYOUTS = ("bundle", "single")
_KNOWN = ("sparsity", "epoch", "seed", "origin", "metrics")


def bundle_members(
    models: Sequence[Any],
    learners: Sequence[Any],
    from_logits: Sequence[bool],
    *,
    quantization: str | None,
    representative_data: Any,
) -> list[BundleMember]:
    """Make the files of members, or take those that there are.

    Args:
        models: The members: Keras models, or `Member` objects, whose files are taken.
        learners: The learners that they come from; none for an ensemble that was
            loaded.
        from_logits: Whether each puts out logits.
        quantization, representative_data: As for `export_tflite`.

    Returns:
        List of `BundleMember`.

    Raises:
        ValueError: If a member is neither, or as `export_tflite` does.
    """
    data = readable_again(representative_data)
    names = [learner.name for learner in learners]
    names = names or [f"member-{i}" for i in range(len(models))]
    about = [{key: getattr(x, key) for key in _KNOWN} for x in learners]
    paths = [learner.path for learner in learners] or [None] * len(models)
    return [
        BundleMember(
            name=names[i],
            model=_content(model, names[i], paths[i], quantization, data),
            from_logits=from_logits[i],
            metadata=about[i] if about else {},
        )
        for i, model in enumerate(models)
    ]


def _content(
    model: Any, name: str, path: Path | None, quantization: str | None, data: Any
) -> bytes:
    if isinstance(model, Member):
        return path.read_bytes()
    if not isinstance(model, keras.Model):
        raise ValueError(
            "Expected members that are Keras models or .tflite files: no other can be "
            f"exported. Received: {name!r}, a function."
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        export_tflite(model, path, quantization=quantization, representative_data=data)
        return path.read_bytes()


def check_layout(layout: str, **for_bundles) -> None:
    """Raise a `ValueError` unless what is to be exported fits a layout.

    Args:
        layout: `"bundle"` or `"single"`.
        **for_bundles: What only a bundle has a place for; `None` if there is none.
    """
    if layout not in LAYOUTS:
        raise ValueError(
            f"Expected a layout out of {LAYOUTS}. Received: layout={layout!r}."
        )
    given = [name for name, value in for_bundles.items() if value is not None]
    if layout == "single" and given:
        raise ValueError(
            "Expected no arguments but those that one .tflite file has a place for; "
            "leave them out, or take layout='bundle'. Received: layout='single' and "
            f"{', '.join(given)}."
        )
