"""From JSON values to dataclasses, with every type checked."""

import dataclasses
import reprlib
import types
import typing


def from_json(value, kind, where: str):
    """Return a JSON value as an instance of a type.

    Args:
        value: What `json.loads` returned.
        kind: `bool`, `int`, `float`, `str`, `typing.Any`, `tuple[kind, ...]`,
            `dict[str, kind]`, a union of these or a dataclass with fields of these;
            those with "optional" in their metadata may be missing.
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
    optional = {f.name for f in dataclasses.fields(kind) if "optional" in f.metadata}
    hints = {n: k for n, k in hints.items() if n in value or n not in optional}
    missing = [name for name in hints if name not in value]
    if missing:
        raise ValueError(
            f"Expected {where} to have {missing}. Received: {reprlib.repr([*value])}."
        )
    fields = {n: from_json(value[n], k, f"{where}.{n}") for n, k in hints.items()}
    return kind(**fields)


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
