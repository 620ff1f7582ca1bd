"""Strict recipes: a TOML file and dotted overrides become one frozen dataclass, or a ConfigError.

Works for any keyword-only dataclass whose fields are bool, int, float, str, a tuple of one of
these, or another such dataclass. Defaults live in the fields only; what a value may be is checked
in `__post_init__`, which raises a ConfigError that begins with the name of the field.
"""

import dataclasses
import difflib
import json
import tomllib
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, get_args, get_origin

from liveedit_core.errors import ConfigError

JOB_KEY = "job"

RENAMED = {
    "missing_pictures": "missing_images",
    "picture_weight": "image_weight",
    "cases_per_thing": "cases_per_entity",
    "twin_share": "same_image_ratio",
    "stranger_fraction": "unedited_fraction",
    "rival_fraction": "other_image_fraction",
}
"""Keys that recipes may still hold, and what they are called now."""


class Recipe(Protocol):
    """A dataclass that says which job it is the recipe of."""

    job: ClassVar[str]
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


RecipeT = TypeVar("RecipeT", bound=Recipe)


def load_recipe(
    recipe_class: type[RecipeT], path: Path | None = None, overrides: Sequence[str] = ()
) -> RecipeT:
    """Build a recipe from a TOML file, then overrides, then the fields' defaults.

    Args:
        recipe_class: What to build.
        path: The TOML file; None for defaults and overrides alone.
        overrides: Settings like `evaluation.batch_size=8`; a later one wins.

    Raises:
        ConfigError: An unknown key, a wrong type or an impossible value; the message names it.
    """
    tree = read_toml(path) if path is not None else {}
    sources = [str(path)] if path is not None else []
    origin = " with ".join([*sources, "overrides"] if overrides else sources)
    origin = f"{origin}: " if origin else ""
    job = tree.pop(JOB_KEY, recipe_class.job)
    if job != recipe_class.job:
        raise ConfigError(
            f"{origin}this is a recipe of the job {job!r}; expected one of {recipe_class.job!r}"
        )
    for override in overrides:
        _apply_override(recipe_class, tree, override)
    try:
        recipe: RecipeT = _build(recipe_class, tree, "")
    except ConfigError as error:
        raise ConfigError(f"{origin}{error.message}") from error
    return recipe


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; raises ConfigError when it is missing or not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"recipe {str(path)!r} does not exist") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe {str(path)!r} cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """Every field of a recipe with its value, nested as in the file, `job` first."""
    return {JOB_KEY: recipe.job, **dataclasses.asdict(recipe)}


def to_flat_dict(recipe: Recipe) -> dict[str, Any]:
    """The same by dotted name, as overrides write it."""

    def flat(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for key, value in tree.items():
            if _is_table(value):
                yield from flat(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}", value

    return dict(flat(to_dict(recipe), ""))


def to_toml(recipe: Recipe) -> str:
    """The resolved recipe as TOML that `load_recipe` reads back to an equal one."""
    tree = to_dict(recipe)
    lines = [f"{key} = {_toml(value)}" for key, value in tree.items() if not _is_table(value)]
    for section, values in tree.items():
        if _is_table(values):
            lines += ["", f"[{section}]"]
            lines += [f"{key} = {_toml(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


def _is_table(value: object) -> bool:
    return isinstance(value, dict)


def _toml(value: object) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, float):
        return repr(value)
    # JSON writes booleans, integers and texts as TOML does, but for the one control character.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _build(cls: type[Any], tree: Mapping[str, Any], prefix: str) -> Any:
    """Build one (nested) dataclass; `prefix` is its dotted place, with the dot."""
    types = _field_types(cls)
    values: dict[str, Any] = {}
    for key, value in tree.items():
        if key not in types:
            raise _unknown(f"{prefix}{key}", key, types, prefix)
        values[key] = _convert(value, types[key], f"{prefix}{key}")
    try:
        return cls(**values)
    except ConfigError as error:  # its message begins with the name of the field
        raise ConfigError(f"{prefix}{error.message}") from error


def _field_types(cls: type[Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _convert(value: Any, expected: Any, name: str) -> Any:
    if dataclasses.is_dataclass(expected) and isinstance(expected, type):
        if not isinstance(value, dict):
            raise ConfigError(f"{name} is a section: write [{name}] with its keys below")
        return _build(expected, value, f"{name}.")
    if get_origin(expected) is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"{name} must be a list, got {_show(value)}")
        item_type = get_args(expected)[0]
        return tuple(
            _convert(item, item_type, f"{name}[{index}]") for index, item in enumerate(value)
        )
    if get_origin(expected) is typing.Literal:
        if value not in get_args(expected):
            choices = ", ".join(map(repr, get_args(expected)))
            raise ConfigError(f"{name} must be one of {choices}, got {_show(value)}")
        return value
    if expected is float and type(value) is int:
        return float(value)
    if type(value) is not expected:  # not isinstance: True is an int to Python, not to a user
        raise ConfigError(f"{name} must be {_TYPE_NAMES[expected]}, got {_show(value)}")
    return value


_TYPE_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
}


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _apply_override(cls: type[Any], tree: dict[str, Any], override: str) -> None:
    """Set one `a.b=value` in the tree; the value is read according to the type of the field."""
    path, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"override {override!r} must look like section.key=value")
    *sections, key = (part.strip() for part in path.split("."))
    node = tree
    prefix = ""
    for section in sections:
        types = _field_types(cls)
        if section not in types:
            raise _unknown(f"{prefix}{section}", section, types, prefix)
        cls = types[section]
        if not dataclasses.is_dataclass(cls):
            raise ConfigError(f"{prefix}{section} is a single value, it has no key {key!r}")
        child = node.setdefault(section, {})
        if not isinstance(child, dict):
            raise ConfigError(f"{prefix}{section} is a section, got {_show(child)}")
        node = child
        prefix += f"{section}."
    types = _field_types(cls)
    if key not in types:
        raise _unknown(f"{prefix}{key}", key, types, prefix)
    if dataclasses.is_dataclass(types[key]):
        raise ConfigError(f"{prefix}{key} is a section: set one of its keys, {prefix}{key}.KEY=...")
    node[key] = _parse(text.strip(), types[key])
    _convert(node[key], types[key], f"{prefix}{key}")  # a wrong type here is the override's fault


def _parse(text: str, expected: Any) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    value = parsed.get("value") if len(parsed) == 1 else text
    # A name such as 2026-11-23 or 7 needs no quotes where a text is expected.
    return text if expected is str and not isinstance(value, str) else value


def _unknown(name: str, key: str, valid: Mapping[str, Any], prefix: str) -> ConfigError:
    near = difflib.get_close_matches(key, valid, n=1)
    if RENAMED.get(key) in valid:
        return ConfigError(f"{name} is now called {prefix}{RENAMED[key]}")
    hint = f"did you mean {prefix}{near[0]}?" if near else f"known keys: {', '.join(sorted(valid))}"
    return ConfigError(f"{name} is no known setting; {hint}")
