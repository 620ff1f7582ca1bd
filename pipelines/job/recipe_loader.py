"""Recipes: a TOML file and dotted overrides become one `Recipe`, or a ConfigError."""

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from liveedit_core.errors import ConfigError, InputError
from liveedit_core.inputs.given_files import read_given_text
from liveedit_core.settings import Settings, field_at

JOB_KEY = "job"
_MAX_RECIPE_BYTES = 1 << 20


class Recipe(Settings):
    """All settings of one job."""

    job: ClassVar[str]
    """Name of the job, as a recipe file may give it."""

    def check_start(self) -> None:
        """Refuse settings that runs of earlier releases may have, but no new start."""


RecipeT = TypeVar("RecipeT", bound=Recipe)


def load_recipe(
    recipe_class: type[RecipeT], path: Path | None = None, overrides: Sequence[str] = ()
) -> RecipeT:
    """Build a recipe from a TOML file, then overrides such as `evaluation.batch_size=8`, of which
    a later one wins; the fields' defaults fill the rest."""
    tree = read_toml(path) if path is not None else {}
    sources = [str(path)] if path is not None else []
    origin = " with ".join([*sources, "overrides"] if overrides else sources)
    try:
        job = tree.pop(JOB_KEY, recipe_class.job)
        if job != recipe_class.job:
            raise ConfigError(
                f"this is a recipe of the job {job!r}; expected one of {recipe_class.job!r}"
            )
        for override in overrides:
            _apply_override(recipe_class, tree, override)
        return recipe_class(**tree)
    except ConfigError as error:
        raise ConfigError(f"{origin}: {error.message}" if origin else error.message) from error


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; raises ConfigError when it is missing or not TOML."""
    try:
        if not path.exists():
            raise ConfigError(f"recipe {str(path)!r} does not exist")
        return tomllib.loads(read_given_text(path, _MAX_RECIPE_BYTES))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    except (OSError, ValueError, RecursionError, InputError) as error:
        raise ConfigError(f"recipe {str(path)!r} cannot be read: {error}") from error


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """Every field of a recipe with its value, nested as in the file, `job` first."""
    return {JOB_KEY: recipe.job, **recipe.model_dump()}


def to_flat_dict(recipe: Recipe) -> dict[str, Any]:
    """The same by dotted name, as overrides write it."""

    def flat(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for key, value in tree.items():
            if isinstance(value, dict):
                yield from flat(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}", value

    return dict(flat(to_dict(recipe), ""))


def to_toml(recipe: Recipe) -> str:
    """The resolved recipe as TOML that `load_recipe` reads back to an equal one."""
    tree = to_dict(recipe)
    sections = {name: tree.pop(name) for name in list(tree) if isinstance(tree[name], dict)}
    lines = [f"{key} = {_toml(value)}" for key, value in tree.items()]
    for section, values in sections.items():
        lines += ["", f"[{section}]"]
        lines += [f"{key} = {_toml(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, float):
        return repr(value)
    # JSON writes booleans, integers and texts as TOML does, but for the one control character.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _apply_override(recipe_class: type[Recipe], tree: dict[str, Any], override: str) -> None:
    """Set one `a.b=value` in the tree; that the key exists is checked with the whole recipe."""
    name, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"override {override!r} must look like section.key=value")
    path = [part.strip() for part in name.split(".")]
    for depth, section in enumerate(path[:-1], start=1):
        place = ".".join(path[:depth])
        if field_at(recipe_class, path[:depth])[1] is not None:
            raise ConfigError(f"{place} is a single value, it has no key {path[depth]!r}")
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"{place} is a section, got {tree!r}")
    _, field = field_at(recipe_class, path)
    tree[path[-1]] = _parse(text.strip(), is_text=field is not None and field.annotation is str)


def _parse(text: str, *, is_text: bool) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):  # no TOML, or more digits or brackets than it takes
        return text
    value = parsed.get("value") if len(parsed) == 1 else text
    # A name such as 2026-11-23 or 7 needs no quotes where a text is expected.
    return text if is_text and not isinstance(value, str) else value
