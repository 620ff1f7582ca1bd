"""Base of all settings: frozen, strictly typed; every mistake is a ConfigError naming its field."""

import difflib
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from liveedit_core.errors import ConfigError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

ItemT = TypeVar("ItemT")

RENAMED = {
    "masked_fine_tuning": "projector_tuning",
    "missing_pictures": "missing_images",
    "picture_weight": "image_weight",
    "cases_per_thing": "cases_per_entity",
    "twin_share": "same_image_ratio",
    "stranger_fraction": "unedited_fraction",
    "rival_fraction": "other_image_fraction",
}
"""Keys that recipes may still hold, and what they are called now."""


class Settings(BaseModel):
    """A group of settings; subclasses declare typed fields with defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            mistakes = error.errors(include_url=False)
            raise ConfigError("; ".join(_explain(type(self), item) for item in mistakes)) from None

    # Without this mark pydantic would call __init__ for every nested section too, and the message
    # would not know where in the recipe that section lies.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    def with_changes(self, **changes: Any) -> Self:
        """A validated copy with other values for some fields."""
        return type(self)(**{**dict(self), **changes})


def rule(is_fine: Callable[[Any], bool], requirement: str) -> AfterValidator:
    """A check of one field, for `Annotated`; its error reads "FIELD must REQUIREMENT"."""

    def check(value: ItemT) -> ItemT:
        if not is_fine(value):
            raise ValueError(f"must {requirement}")
        return value

    return AfterValidator(check)


def is_folder_or_uri(text: str) -> bool:
    """Whether a store may be named so: a folder, file:///... or s3://..."""
    scheme, separator, _ = text.partition("://")
    return not separator or scheme in ("file", "s3")


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

Count = Annotated[int, Field(ge=0)]
PositiveInt = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""Seconds, days or CPUs: finite, 0 or more."""
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFraction = Annotated[float, Field(gt=0, le=1)]
OpenFraction = Annotated[float, Field(gt=0, lt=1)]
"""Between 0 and 1, both excluded."""
Text = Annotated[str, rule(lambda text: bool(text.strip()), "not be empty")]
Name = Annotated[str, rule(_NAME.fullmatch, "be made of letters, digits, '.', '_' and '-'")]
"""Names a file, a table or a bank."""
StoreUri = Annotated[str, rule(is_folder_or_uri, "be a folder, file:///... or s3://...")]
"""Root of a store; "" where the field's docstring says what that means."""
List = Annotated[tuple[ItemT, ...], Field(strict=False)]
"""A list in a recipe, a tuple here."""


def field_at(
    section: type[Settings], path: Sequence[str | int]
) -> tuple[type[Settings], FieldInfo | None]:
    """The section at a dotted path, and its field there; None for a section or an unknown key."""
    field = None
    for key in path:
        field = section.model_fields.get(str(key), field if isinstance(key, int) else None)
        kind = field.annotation if field else None
        if isinstance(kind, type) and issubclass(kind, Settings):
            section, field = kind, None
    return section, field


def _explain(settings: type[Settings], mistake: "ErrorDetails") -> str:
    """One mistake in words: the dotted field, what is accepted and what was given."""
    path, given = mistake["loc"], mistake["input"]
    section, field = field_at(settings, path)
    name = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)[1:]
    kind = mistake["type"]
    if kind == "extra_forbidden":
        return _unknown(name, section)
    if kind == "missing":
        return f"{name} is not set"
    if kind == "model_type":
        return (
            f"{name} is a section: write [{name}] with its keys below, or set one of its keys, "
            f"{name}.KEY=VALUE"
        )
    if kind == "value_error":
        message = str(mistake["ctx"]["error"])
        if field is None:  # a rule about several fields, which names them itself
            return f"{name}.{message}" if name else message
        return f"{name} {message}, got {_show(given)}"
    return f"{name} must be {_accepted(mistake, field)}, got {_show(given)}"


_TYPES = {
    "bool_type": "true or false",
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "a text",
    "tuple_type": "a list",
    "too_short": "a list with an item at least",
}
_BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}


def _accepted(mistake: "ErrorDetails", field: FieldInfo | None) -> str:
    kind, context = mistake["type"], mistake.get("ctx", {})
    if kind == "literal_error":
        return f"one of {context['expected']}"
    if kind in _TYPES:
        return _TYPES[kind]
    limits = dict(context)
    for item in field.metadata if field else ():
        limits |= {name: getattr(item, name) for name in _BOUNDS if hasattr(item, name)}
    words = [
        f"{words} {_number(limits[name])}" for name, words in _BOUNDS.items() if name in limits
    ]
    if kind == "finite_number":
        words.append("finite")
    return " and ".join(words) or f"valid ({mistake['msg']})"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _show(value: object) -> str:
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 60 else text[:57] + "..."


def _unknown(name: str, section: type[Settings]) -> str:
    prefix, _, key = name.rpartition(".")
    prefix += "." if prefix else ""
    known = section.model_fields
    if RENAMED.get(key) in known:
        return f"{name} is now called {prefix}{RENAMED[key]}"
    if near := difflib.get_close_matches(key, known, n=1):
        return f"{name} is no known setting; did you mean {prefix}{near[0]}?"
    return f"{name} is no known setting; known keys: {', '.join(sorted(known))}"
