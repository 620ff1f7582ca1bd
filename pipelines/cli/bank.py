"""`liveedit bank ...`: each command opens a bank, does one thing and says what came of it."""

import argparse
from collections.abc import Callable, Collection
from dataclasses import asdict
from itertools import islice
from typing import Any

from infra.bank.expert_bank import ExpertBank
from infra.bank.history import BankVersion
from infra.requests.request_log import RequestHeader, RequestLog
from infra.storage.object_store import ObjectStore
from pipelines.cli.output import Output, short
from pipelines.cli.selection import open_bank, resolve_version, select_edits

DAMAGED = 3
_SHOWN_CHARS = 60

Command = Callable[[argparse.Namespace, Output], int]


def log(options: argparse.Namespace, output: Output) -> int:
    """Versions, newest first."""
    bank = open_bank(options)
    records = list(islice(bank.versions.newest_first(bank.version), options.limit or None))
    tags = _tags_of_versions(bank)
    output.data(
        bank=bank.name,
        newest=bank.version,
        versions=[{**summary(item), "tags": tags.get(item.version, [])} for item in records],
    )
    output.table(
        ("version", "kind", "committed (UTC)", "edits", "+", "-", "author", "message", "tags"),
        [
            (
                item.version,
                item.kind,
                item.committed_at,
                item.num_edits,
                item.num_added,
                item.num_superseded + item.num_removed,
                item.author,
                item.message[:_SHOWN_CHARS],
                ", ".join(tags.get(item.version, [])),
            )
            for item in records
        ],
    )
    return 0


def show(options: argparse.Namespace, output: Output) -> int:
    """One version and its edits."""
    bank = open_bank(options)
    version = resolve_version(bank, options.version)
    record = bank.versions.state_at(version)
    edit_ids = bank.edit_ids(version)
    identity = asdict(bank.identity)
    output.data(
        bank=bank.name,
        version=version,
        tags=_tags_of_versions(bank).get(version, []),
        num_edits=len(edit_ids),
        record=summary(record) if record else None,
        identity=identity,
        edits=edit_ids[: options.limit or None],
    )
    output.say(f"bank {bank.name!r}, version {version}: {len(edit_ids):,} edits")
    if record:
        output.say(
            f"{record.kind} of {record.committed_at:%Y-%m-%d %H:%M:%S} UTC"
            + (f" by {record.author}" if record.author else "")
            + (f": {record.message}" if record.message else "")
        )
    for name, value in identity.items():
        output.say(f"  {name:18} {value}")
    _list_edits(output, _headers(options, edit_ids[: options.limit or None]))
    return 0


def diff(options: argparse.Namespace, output: Output) -> int:
    """What differs between two versions."""
    bank = open_bank(options)
    old, new = resolve_version(bank, options.old), resolve_version(bank, options.new)
    difference = bank.versions.diff(old, new)
    output.data(bank=bank.name, old=old, new=new, **asdict(difference))
    pairs = difference.superseded
    output.say(
        f"from version {old} to {new}: {len(difference.added)} added, "
        f"{len(difference.removed)} removed, {len(pairs)} superseded"
    )
    changes = [("+", edit_id, "") for edit_id in difference.added]
    changes += [("-", edit_id, "") for edit_id in difference.removed]
    changes += [("~", edit_id, successor) for edit_id, successor in pairs]
    changes = changes[: options.limit or None]
    headers = _headers(options, [key for _, *keys in changes for key in keys])
    output.table(
        ("", "edit", "superseded by", "prompt", "target"),
        [
            (
                sign,
                short(edit_id),
                short(successor),
                headers[edit_id].prompt[:_SHOWN_CHARS] if edit_id in headers else "",
                headers[edit_id].target[:_SHOWN_CHARS] if edit_id in headers else "",
            )
            for sign, edit_id, successor in changes
        ],
    )
    return 0


def remove(options: argparse.Namespace, output: Output) -> int:
    """Withdraw edits."""
    return _change(options, output, ExpertBank.remove, "removed")


def restore(options: argparse.Namespace, output: Output) -> int:
    """Take removals back."""
    return _change(options, output, ExpertBank.restore, "restored")


def _change(
    options: argparse.Namespace, output: Output, change: Callable[..., int], word: str
) -> int:
    bank = open_bank(options)
    request_log = RequestLog(ObjectStore(options.store))
    removed = request_log.changes.removed()
    edit_ids = [
        edit_id
        for edit_id in select_edits(options, request_log)
        if (edit_id in removed) == (word == "restored")
    ]
    output.data(bank=bank.name, edits=edit_ids, is_dry_run=options.dry_run)
    if options.dry_run or not edit_ids:
        output.data(version=bank.version)
        output.say(f"{len(edit_ids):,} edits would be {word}" if edit_ids else f"nothing {word}")
        _list_edits(output, _headers(options, edit_ids))
        return 0
    epoch = None if options.queue else bank.acquire_writer()
    version = change(bank, edit_ids, author=_author(options), reason=options.reason, epoch=epoch)
    _say_version(bank, version, output)
    if options.queue:
        output.say(f"{len(edit_ids):,} edits will be {word} before the next window of a job")
        return 0
    waiting = set(edit_ids) & _pending(bank, request_log) if word == "restored" else set()
    output.data(pending=sorted(waiting))
    output.say(f"{len(edit_ids):,} edits {word}")
    if waiting:
        output.say(
            f"{len(waiting):,} of them must be written again, as no version holds them any more: "
            "`liveedit bank repair`, or the next editing job, does so"
        )
    return 0


def rollback(options: argparse.Namespace, output: Output) -> int:
    """Go back to what an older version holds."""
    bank = open_bank(options)
    target = resolve_version(bank, options.version)
    epoch = bank.acquire_writer()
    version = bank.roll_back(target, author=_author(options), reason=options.reason, epoch=epoch)
    output.data(bank=bank.name, target=target)
    _say_version(bank, version, output)
    return 0


def tag(options: argparse.Namespace, output: Output) -> int:
    """Name a version, or take a name away."""
    bank = open_bank(options)
    if options.delete:
        bank.versions.untag(options.name)
    else:
        bank.versions.tag(options.name, resolve_version(bank, options.version))
    tags = bank.versions.tags()
    output.data(bank=bank.name, tags=tags)
    output.table(("tag", "version"), sorted(tags.items()))
    return 0


def verify(options: argparse.Namespace, output: Output) -> int:
    """Compare a version with what was written."""
    from infra.bank.integrity import verify_version

    bank = open_bank(options)
    version = resolve_version(bank, options.version)
    report = verify_version(bank, version, RequestLog(ObjectStore(options.store)))
    output.data(**report.content())
    for line in report.lines():
        output.say(f"DAMAGED  {line}")
    if not report.is_whole:
        output.say(
            f"bank {bank.name!r}, version {version} is damaged: {report.num_verified:,} of "
            f"{report.num_edits:,} edits are right. `liveedit bank repair` mends the newest version"
        )
        return DAMAGED
    if report.unchecked_files:
        output.say(f"{len(report.unchecked_files)} files have no checksum; their rows were read")
    output.say(
        f"bank {bank.name!r}, version {version} is whole: {report.num_verified:,} edits, "
        f"{report.num_files:,} files, {report.num_bytes:,} bytes"
    )
    return 0


def repair(options: argparse.Namespace, output: Output) -> int:
    """Mend the newest version."""
    from pipelines.editing.recipe import QUICKSTART, LifelongEditRecipe
    from pipelines.editing.repair import ray_workers, repair_bank
    from pipelines.job.recipe_loader import load_recipe

    config = load_recipe(LifelongEditRecipe, options.recipe or QUICKSTART, options.overrides)
    bank = open_bank(options)
    done = repair_bank(
        bank,
        RequestLog(ObjectStore(options.store)),
        ray_workers(config),
        config,
        author=_author(options),
        reason=options.reason or "repair",
    )
    output.data(
        before=done.before.content(),
        after=done.after.content(),
        num_rescued=done.num_rescued,
        num_rewritten=done.num_rewritten,
        rejected=[vars(item) for item in done.rejected],
    )
    for line in done.before.lines():
        output.say(f"was damaged: {line}")
    output.say(
        f"bank {bank.name!r}, version {done.after.version}: {done.num_rescued:,} rows of damaged "
        f"files rescued, {done.num_rewritten:,} experts written again"
    )
    for line in done.after.lines():
        output.say(f"STILL DAMAGED  {line}")
    return 0 if done.after.is_whole and not done.rejected else DAMAGED


def compact(options: argparse.Namespace, output: Output) -> int:
    """Merge small files, clean up old versions."""
    from infra.bank.compaction import Compaction
    from pipelines.editing.recipe import QUICKSTART, LifelongEditRecipe
    from pipelines.job.recipe_loader import load_recipe

    config = load_recipe(LifelongEditRecipe, options.recipe or QUICKSTART, options.overrides)
    bank = open_bank(options)
    done = Compaction(ObjectStore(options.store), bank.name, config.growth).run()
    output.data(bank=bank.name, version=bank.version, **asdict(done))
    output.say(done.sentence())
    return 0


def summary(record: BankVersion) -> dict[str, Any]:
    """A record without its lists of edits."""
    return {key: value for key, value in vars(record).items() if key not in ("added", "removed")}


def _say_version(bank: ExpertBank, version: int, output: Output) -> None:
    record = bank.versions.state_at(version)
    output.data(version=version, record=summary(record) if record else None)
    output.say(f"bank {bank.name!r}, version {version}: {bank.num_edits(version):,} edits")


def _pending(bank: ExpertBank, request_log: RequestLog) -> set[str]:
    numbers = set(bank.pending_sequences(request_log))
    return {item.edit_id for item in request_log.headers() if item.sequence in numbers}


def _tags_of_versions(bank: ExpertBank) -> dict[int, list[str]]:
    names: dict[int, list[str]] = {}
    for name, version in sorted(bank.versions.tags().items()):
        names.setdefault(version, []).append(name)
    return names


def _headers(options: argparse.Namespace, edit_ids: Collection[str]) -> dict[str, RequestHeader]:
    """What the log says of some edits, by number."""
    headers = RequestLog(ObjectStore(options.store)).headers(edit_ids=edit_ids)
    return {item.edit_id: item for item in headers}


def _list_edits(output: Output, headers: dict[str, RequestHeader]) -> None:
    output.table(
        ("number", "edit", "submitter", "prompt", "target"),
        [
            (
                item.sequence,
                short(item.edit_id),
                item.submitter,
                item.prompt[:_SHOWN_CHARS],
                item.target[:_SHOWN_CHARS],
            )
            for item in headers.values()
        ],
    )


def _author(options: argparse.Namespace) -> str:
    if options.author:
        return str(options.author)
    from pipelines.job.entry import current_user

    return current_user()


BANK_COMMANDS: dict[str, Command] = {
    "log": log,
    "show": show,
    "diff": diff,
    "remove": remove,
    "restore": restore,
    "rollback": rollback,
    "tag": tag,
    "verify": verify,
    "repair": repair,
    "compact": compact,
}
