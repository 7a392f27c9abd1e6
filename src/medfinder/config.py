"""TOML and ``--set key=value`` → one frozen dataclass a stage; unknown keys die.

Every default lives in its dataclass. What a file or an override says goes on top, in that order,
and the resolved result travels with the artifact (`to_dict`, `config_hash`).
"""

import dataclasses
import hashlib
import json
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from medfinder.errors import ConfigError
from medfinder.registry import unknown

C = TypeVar("C")


def load_config(
    cls: type[C], path: str | Path | None = None, overrides: Sequence[str] = (), section: str = ""
) -> C:
    """Build a config from its defaults, then a TOML file, then ``key=value`` overrides.

    Args:
        cls: A frozen dataclass whose every field has a default.
        path: TOML file; None for defaults only.
        overrides: Such as ``"lr=3e-4"`` or ``"volume.depth=4"``; values are read as TOML,
            a bare word as a string.
        section: Table of the file that belongs to `cls`; "" for the whole file.

    Raises:
        ConfigError: Unknown key (the nearest is named), wrong type, or unreadable TOML.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"The configuration file cannot be read: {error}.") from None
        if section:
            values = values.get(section, {})
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ConfigError(f"Override {override!r} has no '='. Write key=value.")
        here = values
        *parents, last = key.strip().split(".")
        for name in parents:
            here = here.setdefault(name, {})
        here[last] = _toml_value(text.strip())
    return from_dict(cls, values)


def from_dict(cls: type[C], values: Mapping[str, Any], where: str = "") -> C:
    """Build the dataclass `cls` from nested mappings; the inverse of `to_dict`.

    Raises:
        ConfigError: Unknown key or wrong type, named with its full path.
    """
    known = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    given: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            raise ConfigError(unknown("setting", where + key, [where + k for k in sorted(known)]))
        given[key] = _convert(value, hints[key], where + key)
    try:
        return cls(**given)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"Bad configuration{' in ' + where.rstrip('.') if where else ''}: {error}."
        ) from None


def to_dict(config: Any) -> dict[str, Any]:
    """Return a config as plain JSON types."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain


def config_hash(config: Any) -> str:
    """Return 16 hex digits that change whenever any resolved setting changes."""
    text = json.dumps(to_dict(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        return text


def _convert(value: Any, hint: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        errors = []
        for option in args:
            try:
                return _convert(value, option, where)
            except ConfigError as error:
                errors.append(error)
        raise errors[0]
    if origin is typing.Literal:
        if value not in args:
            raise ConfigError(f"Setting {where} is {value!r}; it must be one of {list(args)}.")
        return value
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise ConfigError(f"Setting {where} must be a table, got {value!r}.")
        return from_dict(hint, value, where + ".")
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"Setting {where} must be a list, got {value!r}.")
        each = [args[0]] * len(value) if args[1:] == (...,) else list(args)
        if len(each) != len(value):
            raise ConfigError(f"Setting {where} must have {len(each)} values, got {len(value)}.")
        return tuple(
            _convert(v, h, f"{where}[{i}]")
            for i, (v, h) in enumerate(zip(value, each, strict=True))
        )
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and (not isinstance(value, hint) or (hint is int and value is True)):
        raise ConfigError(f"Setting {where} must be {hint.__name__}, got {value!r}.")
    return value
