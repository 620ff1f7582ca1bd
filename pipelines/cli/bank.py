"""`liveedit bank ...`: each command opens a bank, does one thing and prints the result."""

from collections.abc import Callable, Collection
from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING, Any

from infra.bank.expert_bank import ExpertBank
from infra.bank.history import BankVersion
from infra.requests.request_log import RequestHeader
from liveedit_core.errors import ConfigError, RepositoryMismatchError
from liveedit_core.method.config import checked_budget
from pipelines.cli.context import CommandContext, editing_recipe, select_edits

if TYPE_CHECKING:
    from liveedit_core.method.generator import LiveEditGenerator
    from workers.models import ModelNames

DAMAGED = 3
CALIBRATION_SOURCES = {
    "bank": "offset {offset:.4f}, from {num_images:,} images of the bank",
    "images": "offset {offset:.4f}, from {num_images:,} images of the traffic",
    "generator": "offset {offset:.4f}, the generator's, as the bank is too small to tell",
    "paper": "the paper's, which follows no budget",
}


def log(context: CommandContext) -> int:
    bank, output = context.bank, context.output
    records = list(islice(bank.versions.newest_first(bank.version), context.limit))
    tags = _tags_of_versions(bank)
    output.data(
        bank=bank.name,
        newest=bank.version,
        versions=[{**_summary(item), "tags": tags.get(item.version, [])} for item in records],
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
                item.message[:60],
                ", ".join(tags.get(item.version, [])),
            )
            for item in records
        ],
    )
    return 0


def show(context: CommandContext) -> int:
    bank, output = context.bank, context.output
    version = context.version(context.options.version)
    record = bank.versions.state_at(version)
    edit_ids = bank.edit_ids(version)
    identity = asdict(bank.identity)
    false_activation = bank.versions.false_activation_at(version)
    traffic = bank.versions.traffic_at(version)
    output.data(
        bank=bank.name,
        version=version,
        tags=_tags_of_versions(bank).get(version, []),
        num_edits=len(edit_ids),
        record=_summary(record) if record else None,
        identity=identity,
        false_activation=false_activation,
        traffic=traffic,
        edits=edit_ids[: context.limit],
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
    output.say(f"  {'false_activation':18} {false_activation:g}")
    if traffic:
        output.say(f"  {'traffic':18} {traffic}")
    _show_calibration(context, version)
    _list_edits(context, edit_ids[: context.limit])
    return 0


def _show_calibration(context: CommandContext, version: int) -> None:
    """How strict the visual filter of a version is, if the models that wrote it are named."""
    bank, output = context.bank, context.output
    if not _names_models(context):
        output.data(calibration=None)
        output.say("  name the models, --recipe FILE.toml, to see how strict its visual filter is")
        return
    from liveedit_core.method.calibration import calibrate as calibration_of

    _, generator = _models(context)
    repository = bank.load_repository(generator.config, version, matrices="on_demand")
    found = calibration_of(generator, repository)
    output.data(calibration=asdict(found))
    text = CALIBRATION_SOURCES[found.source].format(**asdict(found))
    output.say(f"  {'visual filter':18} {text}")


def _names_models(context: CommandContext) -> bool:
    return bool(context.options.recipe or context.options.overrides)


def _models(context: CommandContext) -> "tuple[ModelNames, LiveEditGenerator]":
    """The models of the recipe, and their generator: that which wrote the bank."""
    from pipelines.editing.writers import model_names

    models = model_names(editing_recipe(context))
    generator = models.load_generator()
    _check_digest(context, "generator", generator.digest)
    return models, generator


def _check_digest(context: CommandContext, model: str, found: str) -> None:
    bank = context.bank
    wrote = getattr(bank.identity, f"{model}_digest")
    if found != wrote:
        raise RepositoryMismatchError(
            f"bank {bank.name!r} was written by the {model} {wrote}, that of the recipe is {found}"
        )


def export(context: CommandContext) -> int:
    from liveedit_core.exported_experts import export_experts

    bank, file = context.bank, context.options.output
    _, generator = _models(context)
    repository = bank.load_repository(generator.config, context.version(context.options.version))
    digest, is_partial = bank.identity.backbone_digest, context.options.partial
    number = export_experts(file, generator, repository, digest, is_partial=is_partial)
    context.output.data(file=str(file), num_edits=number)
    context.output.say(f"{number:,} experts written to {file}")
    return 0


def diff(context: CommandContext) -> int:
    bank, output = context.bank, context.output
    old, new = context.version(context.options.old), context.version(context.options.new)
    difference = bank.versions.diff(old, new)
    output.data(bank=bank.name, old=old, new=new, **asdict(difference))
    output.say(
        f"from version {old} to {new}: {len(difference.added)} added, "
        f"{len(difference.removed)} removed, {len(difference.superseded)} superseded"
    )
    changes = [("+", edit_id, "") for edit_id in difference.added]
    changes += [("-", edit_id, "") for edit_id in difference.removed]
    changes += [("~", edit_id, successor) for edit_id, successor in difference.superseded]
    changes = changes[: context.limit]
    headers = _headers(context, [key for _, *keys in changes for key in keys])
    rows = []
    for sign, edit_id, successor in changes:
        header = headers.get(edit_id)
        texts = (header.prompt, header.target) if header else ("", "")
        rows.append((sign, edit_id, successor, *texts))
    output.table(("", "edit", "superseded by", "prompt", "target"), rows)
    return 0


def remove(context: CommandContext) -> int:
    return _change(context, ExpertBank.remove, "removed")


def restore(context: CommandContext) -> int:
    return _change(context, ExpertBank.restore, "restored")


def _change(context: CommandContext, change: Callable[..., int], word: str) -> int:
    options, output, bank = context.options, context.output, context.bank
    removed = context.request_log.changes.removed()
    edit_ids = [
        edit_id for edit_id in select_edits(context) if (edit_id in removed) == (word == "restored")
    ]
    output.data(bank=bank.name, edits=edit_ids, is_dry_run=options.dry_run)
    if options.dry_run or not edit_ids:
        output.data(version=bank.version)
        output.say(f"{len(edit_ids):,} edits would be {word}" if edit_ids else f"nothing {word}")
        _list_edits(context, edit_ids)
        return 0
    epoch = None if options.queue else bank.acquire_writer()
    version = change(bank, edit_ids, author=context.author, reason=options.reason, epoch=epoch)
    _say_version(context, version)
    if options.queue:
        output.say(f"{len(edit_ids):,} edits will be {word} before the next window of a job")
        return 0
    waiting = set(edit_ids) & _pending(context) if word == "restored" else set()
    output.data(pending=sorted(waiting))
    output.say(f"{len(edit_ids):,} edits {word}")
    if waiting:
        output.say(
            f"{len(waiting):,} of them must be written again, as no version holds them any more: "
            "run `liveedit bank repair`, or the next editing job"
        )
    return 0


def rollback(context: CommandContext) -> int:
    bank = context.bank
    target = context.version(context.options.target)
    epoch = bank.acquire_writer()
    reason = context.options.reason
    version = bank.roll_back(target, author=context.author, reason=reason, epoch=epoch)
    context.output.data(bank=bank.name, target=target)
    _say_version(context, version)
    return 0


def calibrate(context: CommandContext) -> int:
    options, bank = context.options, context.bank
    budget = options.false_activation
    if options.images and options.no_images:
        raise ConfigError("--images and --no-images exclude each other")
    if budget is None and not (options.images or options.no_images):
        raise ConfigError("name --false-activation SHARE, --images FOLDER, --no-images, or two")
    if budget is not None:
        checked_budget(budget)
    traffic = _stored_traffic(context) if options.images else "" if options.no_images else None
    why = {"author": context.author, "reason": options.reason}
    version = bank.calibrate(budget, traffic=traffic, epoch=bank.acquire_writer(), **why)
    context.output.data(
        bank=bank.name,
        false_activation=bank.versions.false_activation_at(version),
        traffic=bank.versions.traffic_at(version),
    )
    _say_version(context, version)
    return 0


def _stored_traffic(context: CommandContext) -> str:
    """Store the images of --images as the models of the recipe see them."""
    if not _names_models(context):
        raise ConfigError("--images needs the models that wrote the bank: name --recipe FILE.toml")
    from infra.bank.traffic import write_traffic
    from pipelines.cli.traffic import read_traffic_images

    models, generator = _models(context)
    backbone = models.load_backbone()
    _check_digest(context, "backbone", backbone.digest)
    found = read_traffic_images(context.options.images, backbone, generator)
    num_images, output = len(found.unit_MR), context.output
    output.data(
        num_images=num_images, num_files=found.num_files, num_unreadable=found.num_unreadable
    )
    output.say(
        f"{num_images:,} images of {found.num_files:,} files; {found.num_unreadable:,} files could "
        "not be read"
    )
    return write_traffic(context.store, found.unit_MR.numpy())


def tag(context: CommandContext) -> int:
    options, bank = context.options, context.bank
    if options.delete:
        bank.versions.untag(options.name)
    else:
        bank.versions.tag(options.name, context.version(options.version))
    tags = bank.versions.tags()
    context.output.data(bank=bank.name, tags=tags)
    context.output.table(("tag", "version"), sorted(tags.items()))
    return 0


def verify(context: CommandContext) -> int:
    from infra.bank.integrity import verify_version
    from infra.requests.log_integrity import verify_log

    if context.options.audit is not None:
        from pipelines.cli.audit import verify_audit

        return verify_audit(context)
    bank, output = context.bank, context.output
    version = context.version(context.options.version)
    log_report = verify_log(context.request_log)
    readable_log = context.request_log if log_report.is_whole else None
    report = verify_version(bank, version, readable_log)
    output.data(**report.content())
    output.data(log_problems=log_report.problems)
    for line in [*report.lines(), *log_report.problems]:
        output.say(f"DAMAGED  {line}")
    if report.is_whole and not log_report.is_whole:
        output.say("the request log is damaged; `liveedit bank repair` keeps what is intact")
        return DAMAGED
    if not report.is_whole:
        output.say(
            f"bank {bank.name!r}, version {version} is damaged: {report.num_verified:,} of "
            f"{report.num_edits:,} edits are intact. `liveedit bank repair` repairs the newest "
            "version"
        )
        return DAMAGED
    if report.unchecked_files:
        output.say(f"{len(report.unchecked_files)} files have no checksum; their rows were read")
    output.say(
        f"bank {bank.name!r}, version {version} is whole: {report.num_verified:,} edits, "
        f"{report.num_files:,} files, {report.num_bytes:,} bytes"
    )
    return 0


def repair(context: CommandContext) -> int:
    from infra.requests.log_integrity import lost_requests, repair_log
    from pipelines.editing.repair import ray_workers, repair_bank

    config, bank, output = editing_recipe(context), context.bank, context.output
    for line in repair_log(context.request_log).problems:
        output.say(f"was damaged: {line}")
    lost = lost_requests(context.request_log)
    output.data(lost_requests=[edit_id for _, edit_id in lost])
    if lost:
        numbers = ", ".join(str(number) for number, _ in lost)
        output.say(f"requests {numbers} are lost: send them again, they take their old places")
    done = repair_bank(
        bank,
        context.request_log,
        ray_workers(config),
        config,
        author=context.author,
        reason=context.options.reason or "repair",
    )
    output.data(
        before=done.before.content(),
        after=done.after.content(),
        num_rescued=done.num_rescued,
        num_rewritten=done.num_rewritten,
        rejected=[asdict(item) for item in done.rejected],
    )
    for line in done.before.lines():
        output.say(f"was damaged: {line}")
    output.say(
        f"bank {bank.name!r}, version {done.after.version}: {done.num_rescued:,} rows of damaged "
        f"files kept, {done.num_rewritten:,} experts written again"
    )
    for line in done.after.lines():
        output.say(f"STILL DAMAGED  {line}")
    return 0 if done.after.is_whole and not done.rejected else DAMAGED


def compact(context: CommandContext) -> int:
    from infra.bank.compaction import Compaction

    config, bank = editing_recipe(context), context.bank
    done = Compaction(context.store, bank.name, config.growth).run()
    context.output.data(bank=bank.name, version=bank.version, **asdict(done))
    context.output.say(done.sentence())
    return 0


def _summary(record: BankVersion) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in ("added", "removed")}


def _say_version(context: CommandContext, version: int) -> None:
    bank = context.bank
    record = bank.versions.state_at(version)
    context.output.data(version=version, record=_summary(record) if record else None)
    context.output.say(f"bank {bank.name!r}, version {version}: {bank.num_edits(version):,} edits")


def _pending(context: CommandContext) -> set[str]:
    numbers = set(context.bank.pending_sequences(context.request_log))
    return {item.edit_id for item in context.request_log.headers() if item.sequence in numbers}


def _tags_of_versions(bank: ExpertBank) -> dict[int, list[str]]:
    names: dict[int, list[str]] = {}
    for name, version in sorted(bank.versions.tags().items()):
        names.setdefault(version, []).append(name)
    return names


def _headers(context: CommandContext, edit_ids: Collection[str]) -> dict[str, RequestHeader]:
    headers = context.request_log.headers(edit_ids=edit_ids)
    return {item.edit_id: item for item in headers}


def _list_edits(context: CommandContext, edit_ids: Collection[str]) -> None:
    context.output.table(
        ("number", "edit", "submitter", "prompt", "target"),
        [
            (item.sequence, item.edit_id, item.submitter, item.prompt, item.target)
            for item in _headers(context, edit_ids).values()
        ],
    )


BANK_COMMANDS: dict[str, Callable[[CommandContext], int]] = {
    command.__name__: command
    for command in (
        *(log, show, diff, remove, restore, rollback, calibrate),
        *(tag, verify, repair, compact, export),
    )
}
