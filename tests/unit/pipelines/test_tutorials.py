"""Every cell of every tutorial runs and prints what the text below it says."""

import contextlib
import importlib
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import pipelines.tutorials
from liveedit_core.backbones.families import FAMILIES

FOLDER = Path(pipelines.tutorials.__path__[0])
TUTORIALS = sorted(path for path in FOLDER.glob("*.py") if path.stem != "__init__")
MARK = re.compile(r"^# %%(.*)$", re.MULTILINE)


class Cell(NamedTuple):
    is_text: bool
    source: str
    line: int
    """Of its first line."""


def cells_of(text: str) -> list[Cell]:
    """Cells of a script in the percent format."""
    marks = [*MARK.finditer(text)]
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    return [
        Cell("[markdown]" in mark[1], text[mark.end() : end], 1 + text[: mark.end()].count("\n"))
        for mark, end in zip(marks, ends, strict=True)
    ]


def expected(cell: Cell) -> str:
    """What the fenced block at the head of a text says; empty if it has none there."""
    lines = [line.removeprefix("#").removeprefix(" ") for line in cell.source.splitlines()]
    found = re.match(r"\n*```\n(.*?)```", "\n".join(lines), re.DOTALL)
    return found[1] if found else ""


@pytest.fixture
def own_families() -> Iterator[None]:
    before = dict(FAMILIES)
    yield
    FAMILIES.clear()
    FAMILIES.update(before)


@pytest.mark.slow
@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
@pytest.mark.usefixtures("own_families")
def test_cells_print_what_the_text_says(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    importlib.import_module("deepspeed")  # which prints at its first import (save_pretrained)
    monkeypatch.chdir(tmp_path)
    cells = cells_of(path.read_text(encoding="utf-8"))
    assert sum(not cell.is_text for cell in cells) >= 4
    scope: dict[str, object] = {"__name__": path.stem}
    for cell, following in zip(cells, [*cells[1:], None], strict=True):
        if cell.is_text:
            continue
        printed = io.StringIO()
        code = compile("\n" * (cell.line - 1) + cell.source, str(path), "exec")
        with contextlib.redirect_stdout(printed):
            exec(code, scope)
        told = expected(following) if following and following.is_text else ""
        said = printed.getvalue()
        is_job = "main(" in cell.source  # a job prints its progress before what the text shows
        assert said.endswith(told) if is_job else said == told, said
        assert told or not said


def test_the_readme_lists_every_tutorial() -> None:
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    top = (FOLDER.parents[1] / "README.md").read_text(encoding="utf-8")
    for path in TUTORIALS:
        assert f"`{path.name}`" in page
        assert f"pipelines/tutorials/{path.name}" in top


def test_a_cell_that_prints_something_else_is_told() -> None:
    text, code, block = (
        "# %% [markdown]\n# # A title\n",
        "\n# %%\nprint(1)\n",
        "\n# %% [markdown]\n# ```\n# 1\n# ```\n# More.\n",
    )
    cells = cells_of(text + code + block)
    assert [cell.is_text for cell in cells] == [True, False, True]
    assert [expected(cell) for cell in cells] == ["", "", "1\n"]
    assert cells[1].line == 4
