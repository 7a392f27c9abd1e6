"""TOML and ``--set key=value`` → one frozen dataclass a stage; unknown keys die.

Every default lives in its dataclass. What a file or an override says goes on top, in that order,
and the resolved result travels with the artifact (`to_dict`, `config_hash`).
"""

import dataclasses
import hashlib
import json
import re
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
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
            a bare word as a string, and for a setting that is a string what was typed.
        section: Table of the file that belongs to `cls`; "" for the whole file.

    Raises:
        ConfigError: Unknown key (the nearest is named), wrong type, unreadable TOML, or a file
            without the table `section`. No message holds the value of a setting whose name ends
            in ``_key``, ``_secret``, ``_password``, ``_token`` or ``_url``.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"The configuration file cannot be read: {error}.") from None
        if section:
            values = _table(values, section)
    for override in overrides:
        _put(values, override)
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


class _Typed(str):
    """A value as it was typed after ``--set``; its setting decides what it means."""

    def meaning(self, hint: Any) -> Any:
        """Return the value as TOML has it; for a string, the text unless it is quoted."""
        try:
            value = tomllib.loads(f"x = {self}")["x"]
        except tomllib.TOMLDecodeError:
            return str(self)
        return str(self) if hint is str and not isinstance(value, str) else value


def _table(values: Mapping[str, Any], section: str) -> dict[str, Any]:
    found = values.get(section)
    if isinstance(found, dict):
        return found
    near = get_close_matches(section, values, n=1)
    hint = f" Did you mean that by {near[0]!r}?" if near and near[0] != section else ""
    raise ConfigError(
        f"The configuration file has no table [{section}].{hint} "
        f"It holds: {', '.join(values) or 'nothing'}."
    )


def _put(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals:  # the text may be a key's value, so only its first word is repeated
        word = re.match(r"[\w.-]*", override)[0]  # type: ignore[index]
        raise ConfigError(f"Override {word!r} has no '='. Write key=value.")
    *parents, last = key.strip().split(".")
    for n, name in enumerate(parents, 1):
        values = values.setdefault(name, {})
        if not isinstance(values, dict):
            table = ".".join(parents[:n])
            raise ConfigError(
                f"Override {key.strip()!r} sets a part of {table}, which is given as one value too. "
                "Remove one of them."
            )
    typed = _Typed(text.strip())
    meaning = typed.meaning(None)
    values[last] = meaning if isinstance(meaning, dict) else typed


def _shown(value: Any, where: str) -> str:
    is_secret = re.search(r"_(key|secret|password|token|url)(\[\d+\])?$", where)
    return "a value that is not shown" if is_secret else repr(value)


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
    if isinstance(value, _Typed):
        value = value.meaning(hint)
    if origin is typing.Literal:
        if value not in args:
            raise ConfigError(
                f"Setting {where} is {_shown(value, where)}; it must be one of {list(args)}."
            )
        return value
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise ConfigError(f"Setting {where} must be a table, got {_shown(value, where)}.")
        return from_dict(hint, value, where + ".")
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"Setting {where} must be a list, got {_shown(value, where)}.")
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
        raise ConfigError(f"Setting {where} must be {hint.__name__}, got {_shown(value, where)}.")
    return value
