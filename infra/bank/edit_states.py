"""Where each request of the log stands in a bank, and what has happened to it."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from infra.bank.stored_bank import StoredBank
from infra.requests.request_log import RequestHeader, RequestLog
from liveedit_core.outcome import WriteOutcome

_FEW_EDITS = 1000
"""Up to this many are looked up one by one; for more the whole bank is read."""


class EditEventRow(NamedTuple):
    """Something that happened to an edit, in log or bank."""

    time: datetime
    event: str
    bank: str = ""
    version: int | str = ""
    author: str = ""
    reason: str = ""


def edit_events(
    header: RequestHeader, request_log: RequestLog, banks: Sequence[StoredBank]
) -> list[EditEventRow]:
    """Everything that happened to a request, by time."""
    events = [*_log_events(header, request_log), *_bank_events(header, banks)]
    return sorted(events, key=lambda item: item.time)


def _log_events(header: RequestHeader, request_log: RequestLog) -> Iterator[EditEventRow]:
    number = f"request {header.sequence}"
    yield EditEventRow(header.submitted_at, "submitted", author=header.submitter, reason=number)
    for change in request_log.changes.read():
        if header.edit_id in change.edit_ids:
            word = "removal" if header.edit_id in change.removed else "restoration"
            yield EditEventRow(
                change.decided_at, f"{word} decided", author=change.author, reason=change.reason
            )
    for refusal in request_log.rejects.read():
        if refusal.sequence == header.sequence:
            reason = refusal.rejected.message
            yield EditEventRow(refusal.rejected_at, "refused", bank=refusal.bank, reason=reason)


def _bank_events(header: RequestHeader, banks: Sequence[StoredBank]) -> Iterator[EditEventRow]:
    for bank in banks:
        for item in bank.versions.events(header.edit_id, bank.version):
            record = item.record
            yield EditEventRow(
                record.committed_at,
                item.event,
                bank.name,
                record.version,
                record.author,
                record.message,
            )


def edit_states(
    headers: Sequence[RequestHeader], request_log: RequestLog, bank: StoredBank | None
) -> dict[int, str]:
    """The state of each request in the newest version of a bank, as --state names it."""
    removed = request_log.changes.removed()
    subjects = {item.subject_id for item in headers} if len(headers) <= _FEW_EDITS else None
    held = bank.subject_sequences(subject_ids=subjects) if bank else {}
    refused = request_log.rejects.sequences(bank.name if bank else "")
    states = {}
    for item in headers:
        newest_held = held.get(item.subject_id, 0)
        if item.edit_id in removed:
            state = "removed"
        elif newest_held == item.sequence:
            state = "held"
        elif item.sequence in refused:
            state = "refused"
        else:
            state = "superseded" if newest_held > item.sequence else "pending"
        states[item.sequence] = state
    return states


def edit_outcomes(
    headers: Sequence[RequestHeader],
    states: Mapping[int, str],
    request_log: RequestLog,
    bank: StoredBank | None,
) -> dict[int, WriteOutcome]:
    """How held and weak refused requests were written, as far as it is known."""
    held = bank.outcomes() if bank else {}
    weak = {
        stored.sequence: stored.rejected.outcome
        for stored in request_log.rejects.read()
        if stored.rejected.outcome and stored.bank in ("", bank.name if bank else "")
    }
    outcomes = {}
    for item in headers:
        state = states[item.sequence]
        if state == "held" and item.edit_id in held:
            outcomes[item.sequence] = held[item.edit_id]
        elif state == "refused" and (outcome := weak.get(item.sequence)):
            outcomes[item.sequence] = outcome
    return outcomes
