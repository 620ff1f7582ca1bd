"""`liveedit edits ...`: requests of the log and their state."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

from infra.bank.edit_states import edit_events, edit_outcomes, edit_states
from infra.bank.expert_bank import ExpertBank
from infra.requests.logged_facts import LoggedFacts
from liveedit_core.errors import InputError
from liveedit_core.inputs.datasets import load_requests
from liveedit_core.inputs.rejects import Rejected
from liveedit_core.inputs.request_parser import check_submitter
from liveedit_core.schema import NO_IMAGE, EditRequest, Fact
from pipelines.cli.context import CommandContext, editing_recipe, find_edit

REJECTED = 4


def add(context: CommandContext) -> int:
    from pipelines.editing.intake import Source, log_requests

    options, output = context.options, context.output
    if options.dry_run:
        return _show_replaced(context)
    source = Source(
        name=str(options.file),
        digest=_digest(options.file),
        items=_requests(context),
        moment=datetime.now(UTC).isoformat(),
    )
    intake = log_requests(source, context.request_log)
    removed = sorted(context.request_log.changes.removed() & set(intake.cases.edit_ids))
    output.data(
        num_accepted=intake.num_accepted,
        num_new=intake.num_new,
        num_repeated_lines=intake.num_duplicates,
        rejected=[vars(item) for item in intake.rejected],
        supersedes=intake.superseded_by,
        removed=removed,
        edits=intake.cases.edit_ids,
    )
    output.say(
        f"{intake.num_accepted:,} requests, {intake.num_new:,} of them new to the log; the next "
        "editing job on this store applies them"
    )
    if removed:
        output.say(
            f"{len(removed):,} of them were removed; `liveedit bank restore` brings them back"
        )
    output.table(
        ("line", "error", "message"),
        [(item.line_number, item.error_type, item.message) for item in intake.rejected],
    )
    return REJECTED if intake.rejected else 0


def _show_replaced(context: CommandContext) -> int:
    """List what a file would replace in the newest version of the bank; nothing is stored."""
    from liveedit_core.method.editor import Editor
    from liveedit_core.replacing import plan_edits
    from pipelines.editing.writers import model_names

    output, bank = context.output, context.bank
    models = model_names(editing_recipe(context))
    generator = models.load_generator()
    repository = bank.load_repository(generator.config)
    items = list(_requests(context))
    requests = [item for item in items if isinstance(item, EditRequest)]
    facts = LoggedFacts(context.store).facts_of(repository.edit_ids)
    editor = Editor(models.load_backbone(), generator, repository, index="off")
    plan = plan_edits(editor, requests, facts)
    output.data(
        bank=bank.name,
        num_accepted=len(requests),
        supersedes=[asdict(item) for item in plan.corrections],
    )
    output.table(
        ("superseded edit", "prompt", "target", "by", "new prompt", "new target", "similarity"),
        [
            (
                item.supersedes[:12],
                *_texts(plan.facts[item.supersedes]),
                item.edit_id[:12],
                *_texts(plan.facts[item.edit_id]),
                f"{item.similarity:.2f}",
            )
            for item in plan.corrections
        ],
    )
    output.say(
        f"{len(requests):,} requests would supersede {len(plan.corrections):,} edits; nothing was "
        "stored"
    )
    return REJECTED if len(requests) < len(items) else 0


def _texts(fact: Fact) -> tuple[str, str]:
    return fact.prompt, fact.target


def list_edits(context: CommandContext) -> int:
    options, output = context.options, context.output
    headers = context.request_log.headers(
        submitter=options.submitter, since=options.since, until=options.until
    )
    bank = context.bank if options.bank or context.bank_names else None
    states = edit_states(headers, context.request_log, bank)
    outcomes = edit_outcomes(headers, states, context.request_log, bank)
    matching = {key for key, outcome in outcomes.items() if outcome.state == options.state}
    chosen = [
        item
        for item in headers
        if options.state in (None, states[item.sequence]) or item.sequence in matching
    ]
    shown = [(e, states[e.sequence], outcomes.get(e.sequence)) for e in chosen[: context.limit]]
    output.data(
        bank=bank.name if bank else None,
        num_edits=len(chosen),
        edits=[
            {**asdict(item), "state": state, "outcome": asdict(outcome) if outcome else None}
            for item, state, outcome in shown
        ],
    )
    submitted = ("submitted (UTC)", "submitter", "prompt", "target")
    why = ("why weak", "answer instead") if any(o and o.state == "weak" for *_, o in shown) else ()
    output.table(
        ("number", "edit", "state", "expert", *why, *submitted, "supersedes", "similarity"),
        [
            (
                *(e.sequence, e.edit_id, state, o.state if o else ""),
                *((o.reason, o.answer) if o else ("", ""))[: len(why)],
                *(e.submitted_at, e.submitter, e.prompt, e.target),
                *(e.supersedes[:12], f"{e.similarity:.2f}" if e.supersedes else ""),
            )
            for e, state, o in shown
        ],
    )
    more = f", the first {len(shown):,} are shown" if len(shown) < len(chosen) else ""
    output.say(f"{len(chosen):,} edits{more}")
    return 0


def history(context: CommandContext) -> int:
    options, output, request_log = context.options, context.output, context.request_log
    header = find_edit(request_log, options.edit)
    names = [options.bank] if options.bank else context.bank_names
    banks = [ExpertBank.open(context.store, name) for name in names]
    events = edit_events(header, request_log, banks)
    states = {
        bank.name: edit_states([header], request_log, bank)[header.sequence] for bank in banks
    }
    output.data(**asdict(header), states=states, events=[event._asdict() for event in events])
    output.say(f"edit {header.edit_id}")
    is_textual = header.pixel_digest == NO_IMAGE
    for name, text in (
        *((f"in {name}", state) for name, state in states.items()),
        ("prompt", header.prompt),
        ("target", header.target),
        ("image", "none" if is_textual else header.image_uri or "given as bytes"),
        ("supersedes", f"{header.supersedes} ({header.similarity:.2f})"),
    ):
        if name != "supersedes" or header.supersedes:
            output.say(f"  {name:10} {text}")
    output.table(("time (UTC)", "event", "bank", "version", "by", "reason"), events)
    return 0


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def _requests(context: CommandContext) -> Iterator[EditRequest | Rejected]:
    """The requests of a file; those that name no submitter get the one of the command."""
    from pipelines.job.cases import fetcher

    store, submitter = context.store, check_submitter(context.options.submitter)
    limits = editing_recipe(context).limits
    fetch = fetcher(store, limits.max_image_bytes)
    path = context.options.file
    for item in load_requests(path, limits=limits, fetch=fetch, store_uri=store.root_uri):
        if isinstance(item, EditRequest) and not item.submitter:
            yield replace(item, submitter=submitter)
        else:
            yield item


EDITS_COMMANDS: dict[str, Callable[[CommandContext], int]] = {
    "add": add,
    "list": list_edits,
    "history": history,
}
