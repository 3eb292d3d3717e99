"""Plain YAML values into frozen dataclasses: unknown names and other kinds are errors."""

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


def built(kind: Any, given: Any, where: str, prefix: str = "") -> Any:
    """An instance of the dataclass.

    Raises:
        ValueError: names that it does not have, names that are missing, values of another kind.
    """
    if not isinstance(given, Mapping):
        raise ValueError(f"{where}: {prefix or 'settings'}: expected a mapping, got {given!r}")
    hints, fields = get_type_hints(kind), {f.name: f for f in dataclasses.fields(kind)}
    unknown = sorted(str(name) for name in given if name not in fields)
    if unknown:
        known = ", ".join(fields)
        raise ValueError(f"{where}: {prefix}{unknown[0]}: unknown; expected one of {known}")
    empty = dataclasses.MISSING
    for name, f in fields.items():
        if name not in given and f.default is empty and f.default_factory is empty:
            raise ValueError(f"{where}: {prefix}{name}: expected a value, got none")
    values = {n: _value(hints[n], v, f"{where}: {prefix}{n}", where) for n, v in given.items()}
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def place(held: dict[str, Any], path: list[str], value: Any) -> None:
    """Puts a value at a path of names into nested mappings, which are made or copied.

    Raises:
        ValueError: something other than a mapping on the way.
    """
    first, *rest = path
    if not rest:
        held[first] = value
        return
    inner = held.get(first)
    if inner is not None and not isinstance(inner, Mapping):
        raise ValueError(f"--set {'.'.join(path)}: expected a mapping at {first}, got {inner!r}")
    held[first] = dict(inner or {})
    place(held[first], rest, value)


def _value(kind: Any, given: Any, name: str, where: str) -> Any:
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if given is None and type(None) in parts:
            return None
        return _value(next(part for part in parts if part is not type(None)), given, name, where)
    if origin is Literal:
        if given not in parts:
            raise ValueError(f"{name}: expected {' or '.join(map(repr, parts))}, got {given!r}")
        return given
    if origin is tuple:
        if not isinstance(given, (list, tuple)):
            raise ValueError(f"{name}: expected a list, got {given!r}")
        return tuple(_value(parts[0], item, name, where) for item in given)
    if origin is dict:
        if not isinstance(given, Mapping):
            raise ValueError(f"{name}: expected a mapping, got {given!r}")
        return {str(key): _value(parts[1], v, f"{name}.{key}", where) for key, v in given.items()}
    if dataclasses.is_dataclass(kind):
        short = name.removeprefix(f"{where}: ")
        return built(kind, {} if given is None else given, where, f"{short}.")
    return _scalar(kind, given, name)


def _scalar(kind: Any, given: Any, name: str) -> Any:
    if kind is float and isinstance(given, (int, float, str)) and not isinstance(given, bool):
        try:
            return float(given)  # YAML takes 1e-5 for a word
        except ValueError:
            pass
    if type(given) is not kind:
        words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
        raise ValueError(f"{name}: expected {words[kind]}, got {given!r}")
    return given


def within(name: str, value: float, low: float, high: float) -> None:
    """The number is in this range.

    Raises:
        ValueError: it is not, or is none.
    """
    if not low <= value <= high:
        raise ValueError(f"{name}: expected a number from {low} to {high}, got {value}")
