"""Which edits a command means: by id, by who handed them in and when, or by a file."""

import argparse
import re
import sys
from collections.abc import Collection
from pathlib import Path

from infra.bank.expert_bank import ExpertBank
from infra.requests.request_log import RequestHeader, RequestLog
from infra.storage.object_store import ObjectStore
from liveedit_core.errors import ConfigError, InputError
from liveedit_core.inputs.datasets import load_cases, load_requests
from liveedit_core.inputs.limits import InputLimits
from liveedit_core.inputs.rejects import Rejected
from liveedit_core.schema import Case

MIN_PREFIX_CHARS = 4
_EDIT_ID = re.compile(r"[0-9a-f]{64}")


def open_bank(options: argparse.Namespace) -> ExpertBank:
    """The bank that a command is about; the only one of the store where none is named.

    Raises:
        ConfigError: There are several.
        IntegrityError: There is none of this name.
        InputError: There is none at all.
    """
    store = ObjectStore(options.store)
    if options.bank:
        return ExpertBank.open(store, options.bank)
    names = bank_names(store)
    if not names:
        raise InputError(f"there is no bank in {store.root_uri}")
    if len(names) > 1:
        raise ConfigError(f"name the bank: --bank, one of {', '.join(names)}")
    return ExpertBank.open(store, names[0])


def bank_names(store: ObjectStore) -> list[str]:
    """All banks of a store."""
    return sorted({key.split("/")[1] for key in store.list("banks/")})


def resolve_version(bank: ExpertBank, text: str | None) -> int:
    """A version by its number or tag; the newest where neither is given.

    Raises:
        InputError: There is no such tag or version.
    """
    newest = bank.version
    if text is None:
        return newest
    tags = bank.versions.tags()
    if text in tags:
        return tags[text]
    if text.isdigit() and 1 <= int(text) <= newest:
        return int(text)
    known = ", ".join(tags) or "none"
    raise InputError(
        f"bank {bank.name!r} has no version {text!r}; the newest is {newest}, tags: {known}"
    )


def find_edit(request_log: RequestLog, name: str) -> RequestHeader:
    """The edit whose id begins with a name.

    Raises:
        InputError: The name is too short, unknown, or fits several edits.
    """
    prefix = name.strip().lower()
    if len(prefix) < MIN_PREFIX_CHARS or not prefix.isalnum():
        raise InputError(f"edit {name!r}: give {MIN_PREFIX_CHARS} characters of the id at least")
    fitting = request_log.headers(begins_with=prefix)
    if len(fitting) != 1:
        what = "no edit" if not fitting else f"{len(fitting)} edits"
        raise InputError(f"{what} of the request log begin with {name!r}")
    return fitting[0]


def resolve_edits(request_log: RequestLog, names: Collection[str]) -> list[str]:
    """Full ids of edits; see `find_edit`. Full ids are not looked for one by one.

    Raises:
        InputError: A name is too short, unknown, or fits several edits.
    """
    full = [name for name in map(str.strip, names) if _EDIT_ID.fullmatch(name)]
    request_log.subjects_of(full)
    others = [name for name in map(str.strip, names) if not _EDIT_ID.fullmatch(name)]
    return full + [find_edit(request_log, name).edit_id for name in others]


def select_edits(options: argparse.Namespace, request_log: RequestLog) -> list[str]:
    """The edits that ids, filters and file agree on.

    Raises:
        ConfigError: Nothing is named, which would mean everything.
        InputError: An id or the file is wrong.
    """
    has_filter = bool(options.submitter or options.since or options.until)
    if not (options.edits or options.file or has_filter):
        raise ConfigError("name the edits: ids, --submitter, --since, --until or --from FILE")
    headers = request_log.headers(
        submitter=options.submitter, since=options.since, until=options.until
    )
    chosen = [item.edit_id for item in headers]
    if options.edits or options.file:
        named = resolve_edits(request_log, options.edits)
        if options.file:
            named += edits_of_file(options.file, ObjectStore(options.store), request_log)
        wanted = set(named)
        chosen = [edit_id for edit_id in chosen if edit_id in wanted]
    return chosen


def edits_of_file(path: Path, store: ObjectStore, request_log: RequestLog) -> list[str]:
    """Edit ids of a file: one a line, or the requests or cases that were handed in with it.

    Args:
        path: The file; "-" for standard input, which holds ids.
        store: Fetches images that are given by URI.
        request_log: Knows the edits.

    Raises:
        InputError: The file cannot be read, or a line of it is no edit of the log.
    """
    if str(path) == "-":
        return resolve_edits(request_log, [line for line in sys.stdin if line.strip()])
    try:
        first = next((line for line in path.open(encoding="utf-8") if line.strip()), "")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    if not first.lstrip().startswith("{"):
        lines = path.read_text(encoding="utf-8").splitlines()
        return resolve_edits(request_log, [line for line in lines if line.strip()])
    limits = InputLimits()

    def fetch(uri: str) -> bytes:
        return store.fetch(uri, limits.max_image_bytes)

    load = load_cases if '"edit"' in first else load_requests
    items = load(path, limits=limits, fetch=fetch)
    requests = [
        item.edit if isinstance(item, Case) else item
        for item in items
        if not isinstance(item, Rejected)  # never became a request
    ]
    return [item.edit_id for item in requests if request_log.sequences_of([item.edit_id])]
