"""The first half of a repair: damaged files leave the newest version, unharmed rows stay.

The second half is ordinary work: what is lost is pending, and the generator writes it again from
the request log, to the same numbers. So a repair that is killed in between is finished by the next
one, or by the next editing job.
"""

import pyarrow as pa

from infra.bank.expert_bank import ExpertBank
from infra.bank.integrity import IntegrityReport
from infra.requests.request_log import RequestLog


def drop_damaged(
    bank: ExpertBank, report: IntegrityReport, *, author: str, reason: str, epoch: int
) -> int:
    """Commit a version without damaged files; rows of theirs that are right are written again.

    Args:
        bank: The bank.
        report: Of its newest version.
        author: Who repairs.
        reason: Why.
        epoch: From `acquire_writer`.

    Returns:
        The new version; the newest one when no file and no row is damaged.

    Raises:
        ConcurrentCommitError: The bank has moved on since it was verified.
        WriterFencedError: A newer writer has taken over.
    """
    if not report.damaged:
        return report.version
    rows = pa.concat_tables([fragment.undamaged_rows for fragment in report.damaged])
    return bank.committer.replace(
        fragment_ids=[fragment.fragment_id for fragment in report.damaged],
        rows=rows,
        lost=report.damaged_edits,
        num_edits=report.num_verified,
        version=report.version,
        epoch=epoch,
        message=reason,
        author=author,
    )


def lost_sequences(bank: ExpertBank, request_log: RequestLog) -> list[int]:
    """Numbers of the pending requests whose experts the bank once held.

    Args:
        bank: The bank.
        request_log: Of the same store.

    Returns:
        Rising; empty when nothing that was taught is missing.
    """
    pending = set(bank.pending_sequences(request_log))
    if not pending:
        return []
    once_held = {
        edit_id
        for record in bank.versions.newest_first(bank.version)
        for edit_id in (*record.added, *record.removed)
    }
    return sorted(pending & set(request_log.sequences_of(once_held)))
