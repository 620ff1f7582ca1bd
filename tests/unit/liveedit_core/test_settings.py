"""The base of all settings: strict values, copies that are checked, and mistakes by dotted name."""

import pickle
from typing import Literal, Self

import pytest
from pydantic import model_validator

from liveedit_core.errors import ConfigError
from liveedit_core.settings import (
    Amount,
    Fraction,
    List,
    Name,
    PositiveInt,
    Settings,
    StoreUri,
    Text,
)


class Inner(Settings):
    size: PositiveInt = 1
    share: Fraction = 0.5
    pause_s: Amount = 0.0
    numbers: List[int] = ()
    kind: Literal["one", "two"] = "one"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.kind == "two" and self.size < 2:
            raise ValueError(f"size must be at least 2 with kind two, got {self.size}")
        return self


class Outer(Settings):
    name: Name = "name"
    title: Text = "title"
    store: StoreUri = ""
    inner: Inner = Inner()


def test_lists_become_tuples_and_whole_numbers_numbers() -> None:
    made = Outer(inner={"numbers": [1, 2], "share": 1})  # type: ignore[arg-type]
    assert made.inner == Inner(numbers=(1, 2), share=1.0)
    assert type(made.inner.share) is float


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"inner": {"size": 0}}, "inner.size must be at least 1, got 0"),
        ({"inner": {"size": True}}, "inner.size must be a whole number, got True"),
        ({"inner": {"size": 1.0}}, "inner.size must be a whole number, got 1.0"),
        ({"inner": {"share": 2}}, "inner.share must be at least 0 and at most 1, got 2"),
        (
            {"inner": {"share": float("nan")}},
            "inner.share must be at least 0 and at most 1, got nan",
        ),
        (
            {"inner": {"pause_s": float("inf")}},
            "inner.pause_s must be at least 0 and finite, got inf",
        ),
        ({"inner": {"numbers": 3}}, "inner.numbers must be a list, got 3"),
        ({"inner": {"numbers": [1, "x"]}}, "inner.numbers[1] must be a whole number, got 'x'"),
        ({"inner": {"kind": "three"}}, "inner.kind must be one of 'one' or 'two', got 'three'"),
        ({"inner": {"kind": "two"}}, "inner.size must be at least 2 with kind two, got 1"),
        ({"inner": 3}, "inner is a section: write [inner]"),
        ({"inner": {"sise": 3}}, "inner.sise is no known setting; did you mean inner.size?"),
        ({"xyzzy": 3}, "xyzzy is no known setting; known keys: inner, name, store, title"),
        ({"name": "../up"}, "name must be made of letters, digits, '.', '_' and '-', got '../up'"),
        ({"title": " "}, "title must not be empty, got ' '"),
        ({"store": "http://x"}, "store must be a folder, file:///... or s3://..., got 'http://x'"),
    ],
)
def test_mistakes_name_field_value_and_what_is_accepted(
    values: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        Outer(**values)  # type: ignore[arg-type]
    assert caught.value.message.startswith(message)


def test_all_mistakes_are_named_at_once() -> None:
    with pytest.raises(ConfigError, match=r"^name must .*; inner\.size must "):
        Outer(name="", inner={"size": 0})  # type: ignore[arg-type]


def test_copies_with_changes_are_checked() -> None:
    settings = Outer(title="mine")
    assert settings.with_changes(name="other") == Outer(name="other", title="mine")
    with pytest.raises(ConfigError, match="size must be at least 1"):
        settings.inner.with_changes(size=0)
    with pytest.raises(ConfigError, match="did you mean title"):
        settings.with_changes(titel="x")


def test_settings_are_frozen_hashable_and_travel_between_processes() -> None:
    settings = Outer(title="mine")
    with pytest.raises(ValueError, match="frozen"):
        settings.title = "other"
    assert hash(settings) == hash(Outer(title="mine"))
    assert pickle.loads(pickle.dumps(settings)) == settings
