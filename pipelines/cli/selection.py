"""Which edits a command means: by id, by submitter and time, or by a file."""

import re
import sys
from collections.abc import Collection
from pathlib import Path

from infra.requests.request_log import RequestHeader, RequestLog
from infra.storage.object_store import ObjectStore
from liveedit_core.errors import ConfigError, InputError
from liveedit_core.inputs.datasets import load_cases, load_requests
from liveedit_core.inputs.limits import InputLimits
from liveedit_core.inputs.rejects import Rejected
from liveedit_core.schema import Case
from pipelines.cli.context import CommandContext

MIN_PREFIX_CHARS = 4
_EDIT_ID = re.compile(r"[0-9a-f]{64}")


def find_edit(request_log: RequestLog, name: str) -> RequestHeader:
    """The edit whose id begins with a name."""
    prefix = name.strip().lower()
    if len(prefix) < MIN_PREFIX_CHARS or not prefix.isalnum():
        raise InputError(f"edit {name!r}: give at least {MIN_PREFIX_CHARS} characters of the id")
    found = request_log.headers(begins_with=prefix)
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
    edit_ids = [item.edit_id for item in headers]
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
        return _full_ids(request_log, [line for line in sys.stdin if line.strip()])
    try:
        first = next((line for line in path.open(encoding="utf-8") if line.strip()), "")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    if not first.lstrip().startswith("{"):
        lines = path.read_text(encoding="utf-8").splitlines()
        return _full_ids(request_log, [line for line in lines if line.strip()])
    from pipelines.job.cases import fetcher

    limits = InputLimits()
    fetch = fetcher(store, limits.max_image_bytes)
    load = load_cases if '"edit"' in first else load_requests
    items = load(path, limits=limits, fetch=fetch)
    requests = [
        item.edit if isinstance(item, Case) else item
        for item in items
        if not isinstance(item, Rejected)  # was never added to the log
    ]
    return [item.edit_id for item in requests if request_log.sequences_of([item.edit_id])]
