"""Turn JSON values into dataclasses, with every type checked."""

import dataclasses
import reprlib
import types
import typing
from typing import Any

__all__ = ["from_json"]

MAX_DEPTH = 32


def from_json(value: Any, annotation: Any, where: str) -> Any:
    """Return a JSON value as an instance of a type.

    Args:
        value: Return value of `json.loads`.
        annotation: `bool`, `int`, `float`, `str`, `tuple[T, ...]`, which takes a list,
            `dict[str, T]`, a union of these, a dataclass whose fields are of these
            types, which takes a dict, or `typing.Any` for a value of at most 32 levels.
            A field of a dataclass with the metadata `optional` may be missing.
        where: Path of the value, for messages such as "Expected shape[1] to be ...".

    Raises:
        ValueError: If the value has another type.
    """
    if annotation is Any:
        _check_depth(value, where, MAX_DEPTH)
        return value
    if dataclasses.is_dataclass(annotation):
        return _dataclass(value, annotation, where)
    arguments = typing.get_args(annotation)
    match typing.get_origin(annotation):
        case types.UnionType:
            return _union(value, arguments, where)
        case origin if origin is tuple:
            items = enumerate(_expect(value, list, where))
            return tuple(from_json(v, arguments[0], f"{where}[{i}]") for i, v in items)
        case origin if origin is dict:
            items = _expect(value, dict, where).items()
            return {k: from_json(v, arguments[1], f"{where}[{k!r}]") for k, v in items}
    return _expect(value, annotation, where)


def _dataclass(value, annotation, where):
    _expect(value, dict, where)
    hints, fields = typing.get_type_hints(annotation), dataclasses.fields(annotation)
    required = [field.name for field in fields if "optional" not in field.metadata]
    missing = [name for name in required if name not in value]
    unknown = [name for name in value if name not in hints]
    if missing or unknown:
        raise ValueError(
            f"Expected {where} to have {missing or [*hints]}, and no keys outside of "
            f"the format. Received: {reprlib.repr(unknown or [*value])}."
        )
    values = {n: from_json(v, hints[n], f"{where}.{n}") for n, v in value.items()}
    return annotation(**values)


def _check_depth(value, where, left):
    if not left:
        raise ValueError(
            f"Expected {where} to have at most {MAX_DEPTH} levels. Received: "
            f"{reprlib.repr(value)} below them."
        )
    if isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            _check_depth(item, where, left - 1)


def _union(value, annotations, where):
    for annotation in annotations[:-1]:
        try:
            return from_json(value, annotation, where)
        except ValueError:
            continue
    return from_json(value, annotations[-1], where)


def _expect(value: Any, annotation: Any, where: str) -> Any:
    if annotation is float and type(value) is int and abs(value) <= 2**53:
        return float(value)
    if type(value) is not annotation and not (
        annotation is types.NoneType and value is None
    ):
        raise ValueError(
            f"Expected {where} to be of type {annotation.__name__}. Received: "
            f"{reprlib.repr(value)}."
        )
    return value
