"""What every `liveedit` command works with: output, options, the store, and the edits it means."""

import argparse
import json
import re
import sys
from collections.abc import Collection, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from infra.bank.expert_bank import ExpertBank
from infra.requests.request_log import RequestHeader, RequestLog
from infra.storage.object_store import ObjectStore
from liveedit_core.errors import ConfigError, InputError
from liveedit_core.inputs.datasets import load_cases, load_requests
from liveedit_core.inputs.given_files import check_is_file, given_lines
from liveedit_core.inputs.limits import InputLimits
from liveedit_core.inputs.rejects import Rejected
from liveedit_core.inputs.text import escaped
from liveedit_core.schema import Case
from pipelines.job.entry import current_user

if TYPE_CHECKING:
    from pipelines.editing.recipe import LifelongEditRecipe

MIN_PREFIX_CHARS = 4
_NUMBER = re.compile("[0-9]{1,18}")
_EDIT_ID = re.compile(r"[0-9a-f]{64}")
_MAX_NAME_BYTES = 1000
"""Of a line that names an edit."""
_FOLDED = ("prompt", "target", "message", "reason", "submitter", "author", "by", "answer instead")
"""Columns that fold on a narrow terminal."""
_CUT = {"edit": 12, "superseded by": 12, "prompt": 60, "target": 60, "answer instead": 60}
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
            self._console.print(escaped(text), highlight=False, markup=False, soft_wrap=True)

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
    return escaped(str(value))


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


class CommandContext:
    """One call of `liveedit`; bank and request log are opened when first used."""

    def __init__(self, options: argparse.Namespace, output: Output) -> None:
        self.options = options
        self.output = output

    @cached_property
    def store(self) -> ObjectStore:
        return ObjectStore(self.options.store)

    @cached_property
    def request_log(self) -> RequestLog:
        """Only `edits add` makes one in a store that holds nothing: another is a mistyped name."""
        is_empty = not (RequestLog.exists(self.store) or self.bank_names)
        if is_empty and self.options.command != "add":
            raise InputError(f"there are no requests in {self.store.root_uri}")
        return RequestLog(self.store)

    @property
    def bank_names(self) -> list[str]:
        return sorted({key.split("/")[1] for key in self.store.list("banks/")})

    @cached_property
    def bank(self) -> ExpertBank:
        """The bank of --bank, or the only one of the store."""
        if self.options.bank:
            return ExpertBank.open(self.store, self.options.bank)
        names = self.bank_names
        if not names:
            raise InputError(f"there is no bank in {self.store.root_uri}")
        if len(names) > 1:
            raise ConfigError(f"name the bank: --bank, one of {', '.join(names)}")
        return ExpertBank.open(self.store, names[0])

    def version(self, text: str | None) -> int:
        """A version of the bank by number or tag; None for the newest."""
        newest = self.bank.version
        if text is None:
            return newest
        tags = self.bank.versions.tags()
        if text in tags:
            return tags[text]
        if _NUMBER.fullmatch(text) and 1 <= int(text) <= newest:
            return int(text)
        known = ", ".join(tags) or "none"
        raise InputError(
            f"bank {self.bank.name!r} has no version {text!r}; the newest is {newest}, "
            f"tags: {known}"
        )

    @property
    def author(self) -> str:
        """--author, or the current user."""
        return self.options.author or current_user()

    @property
    def limit(self) -> int | None:
        return self.options.limit or None


def editing_recipe(context: CommandContext) -> "LifelongEditRecipe":
    """The recipe of --recipe, or the quickstart's."""
    from pipelines.editing.recipe import QUICKSTART, LifelongEditRecipe
    from pipelines.job.recipe_loader import load_recipe

    options = context.options
    return load_recipe(LifelongEditRecipe, options.recipe or QUICKSTART, options.overrides)


def find_edit(request_log: RequestLog, name: str) -> RequestHeader:
    """The edit whose id begins with a name."""
    prefix = name.strip().lower()
    if len(prefix) < MIN_PREFIX_CHARS or not prefix.isalnum():
        raise InputError(f"edit {name!r}: give at least {MIN_PREFIX_CHARS} characters of the id")
    # Of an edit whose author came back to it, the newest request.
    found = list({item.edit_id: item for item in request_log.headers(begins_with=prefix)}.values())
    if len(found) != 1:
        what = "no edit" if not found else f"{len(found)} edits"
        raise InputError(f"{what} of the request log begin with {name!r}")
    return found[0]


def select_edits(context: CommandContext) -> list[str]:
    """The edits that match ids, filters and file."""
    options, request_log = context.options, context.request_log
    has_filter = bool(options.submitter or options.since or options.until)
    if not (options.edits or options.file or has_filter):
        raise ConfigError("name the edits: ids, --submitter, --since, --until or --from FILE")
    headers = request_log.headers(
        submitter=options.submitter, since=options.since, until=options.until
    )
    edit_ids = list(dict.fromkeys(item.edit_id for item in headers))
    if not (options.edits or options.file):
        return edit_ids
    named = set(_full_ids(request_log, options.edits))
    if options.file:
        named.update(_edits_of_file(options.file, context.store, request_log))
    return [edit_id for edit_id in edit_ids if edit_id in named]


def _full_ids(request_log: RequestLog, names: Collection[str]) -> list[str]:
    """Full ids of edits, as `find_edit` does for one; checks all full ids in one look-up."""
    stripped = [name.strip() for name in names]
    full = [name for name in stripped if _EDIT_ID.fullmatch(name)]
    request_log.subjects_of(full)
    prefixes = [name for name in stripped if not _EDIT_ID.fullmatch(name)]
    return full + [find_edit(request_log, name).edit_id for name in prefixes]


def _edits_of_file(path: Path, store: ObjectStore, request_log: RequestLog) -> list[str]:
    """Edit ids of a file: one per line ("-": of stdin), or JSONL of requests or cases."""
    if str(path) == "-":
        ids = given_lines(sys.stdin.buffer, "stdin", _MAX_NAME_BYTES)
        return _full_ids(request_log, list(ids))
    # Whoever selects edits may read any image here: only its digest is used.
    limits = InputLimits(image_roots=("/",))
    check_is_file(path)
    try:
        with path.open("rb") as file:
            first = next(given_lines(file, str(path), limits.max_line_bytes), "")
            if not first.startswith("{"):
                file.seek(0)
                ids = given_lines(file, str(path), _MAX_NAME_BYTES)
                return _full_ids(request_log, list(ids))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error}") from error
    from pipelines.job.cases import fetcher

    fetch = fetcher(store, limits.max_image_bytes)
    load = load_cases if '"edit"' in first else load_requests
    items = load(path, limits=limits, fetch=fetch, store_uri=store.root_uri)
    requests = [
        item.edit if isinstance(item, Case) else item
        for item in items
        if not isinstance(item, Rejected)  # was never added to the log
    ]
    known = request_log.numbers_of({item.edit_id for item in requests})
    return [item.edit_id for item in requests if item.edit_id in known]
