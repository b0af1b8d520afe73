"""From JSON values to dataclasses, with every type checked."""

import dataclasses
import reprlib
import types
import typing

MAX_DEPTH = 32


def from_json(value, kind, where: str):
    """Return a JSON value as an instance of a type.

    Args:
        value: What `json.loads` returned.
        kind: `bool`, `int`, `float`, `str`, `tuple[kind, ...]`, `dict[str, kind]`, a
            union of these, a dataclass with fields of these, or `typing.Any` for any
            JSON value of at most 32 levels.
        where: Path of the value, for messages.

    Returns:
        The value; lists are tuples and dicts are dataclasses where `kind` says so.

    Raises:
        ValueError: If the value is something else; the message names it.

    Example:

    ```python
    from_json([1, 2], tuple[int, ...], "shape")  # (1, 2)
    from_json([1, "2"], tuple[int, ...], "shape")  # ValueError: ... shape[1] ...
    ```
    """
    if kind is typing.Any:
        _check_depth(value, where, MAX_DEPTH)
        return value
    if dataclasses.is_dataclass(kind):
        return _dataclass(value, kind, where)
    arguments = typing.get_args(kind)
    match typing.get_origin(kind):
        case types.UnionType:
            return _union(value, arguments, where)
        case origin if origin is tuple:
            items = enumerate(_expect(value, list, where))
            return tuple(from_json(v, arguments[0], f"{where}[{i}]") for i, v in items)
        case origin if origin is dict:
            items = _expect(value, dict, where).items()
            return {k: from_json(v, arguments[1], f"{where}[{k!r}]") for k, v in items}
    return _expect(value, kind, where)


def _dataclass(value, kind, where):
    _expect(value, dict, where)
    hints = typing.get_type_hints(kind)
    missing = [name for name in hints if name not in value]
    unknown = [name for name in value if name not in hints]
    if missing or unknown:
        raise ValueError(
            f"Expected {where} to have {missing or [*hints]}, and nothing that is not "
            f"of the format. Received: {reprlib.repr(unknown or [*value])}."
        )
    fields = {n: from_json(value[n], k, f"{where}.{n}") for n, k in hints.items()}
    return kind(**fields)


def _check_depth(value, where, left):
    if not left:
        raise ValueError(
            f"Expected {where} to have at most {MAX_DEPTH} levels. Received: "
            f"{reprlib.repr(value)} below them."
        )
    if isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            _check_depth(item, where, left - 1)


def _union(value, kinds, where):
    for kind in kinds[:-1]:
        try:
            return from_json(value, kind, where)
        except ValueError:
            continue
    return from_json(value, kinds[-1], where)


def _expect(value, kind, where):
    if kind is float and type(value) is int and abs(value) <= 2**53:
        return float(value)
    if type(value) is not kind and not (kind is types.NoneType and value is None):
        raise ValueError(
            f"Expected {where} to be of type {kind.__name__}. Received: "
            f"{reprlib.repr(value)}."
        )
    return value
