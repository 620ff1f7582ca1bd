"""What `liveedit` prints: tables and lines for people, or one JSON document for programs."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

_FOLDED = ("prompt", "target", "message", "reason", "submitter", "author", "by")
"""Columns that fold on a narrow terminal."""
_CUT = {"edit": 12, "superseded by": 12, "prompt": 60, "target": 60}
"""Columns that show only the first characters; 12 of an id are enough to name an edit."""
_PIPE_WIDTH = 2000


class Output:
    """Standard output of one command."""

    def __init__(self, *, is_json: bool) -> None:
        self.is_json = is_json
        self._content: dict[str, Any] = {}
        self._console = Console()

    def data(self, **content: Any) -> None:
        """Add fields to the document."""
        self._content.update(content)

    def say(self, text: str) -> None:
        """Print a line for people."""
        if not self.is_json:
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Print a table for people."""
        if self.is_json or not rows:
            return
        table = Table(box=None, pad_edge=False, header_style="bold")
        for index, name in enumerate(columns):
            is_number = all(isinstance(row[index], int) for row in rows)
            table.add_column(
                name,
                justify="right" if is_number else "left",
                overflow="fold",
                no_wrap=name not in _FOLDED,
            )
        for row in rows:
            cells = (shown(v)[: _CUT.get(name)] for name, v in zip(columns, row, strict=True))
            table.add_row(*map(Text, cells))
        if not self._console.is_terminal:
            # Into a file or pipe: wide enough that no line is broken.
            wide = self._console.options.update(width=_PIPE_WIDTH)
            self._console.width = self._console.measure(table, options=wide).maximum
        self._console.print(table)

    def close(self) -> None:
        """Print the document, with --json."""
        if self.is_json:
            print(json.dumps(self._content, indent=2, default=_plain))


def shown(value: object) -> str:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
