"""Where windows end, and how requests are cut into micro-batches that respect it.

Windows end at fixed numbers of the request log: at every multiple of `window_edits`, and at the
points of evaluation, so that a bank version exists for each of them. A run that was interrupted
therefore commits the same windows as one that was not.
"""

import bisect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from infra.requests.request_log import LoggedRequest
from workers.messages import NumberedRequest, WrittenBatch


@dataclass(frozen=True, kw_only=True)
class WindowPlan:
    """The ends of all windows."""

    window_edits: int
    points: Sequence[int] = ()
    """More ends, rising."""

    def end_of(self, sequence: int) -> int:
        """The last request number of the window that a request belongs to."""
        regular = -(-sequence // self.window_edits) * self.window_edits
        position = bisect.bisect_left(self.points, sequence)
        return min([regular, *self.points[position : position + 1]])

    def micro_batches(
        self, requests: Iterable[LoggedRequest], batch_size: int
    ) -> Iterator[tuple[NumberedRequest, ...]]:
        """Cut requests into batches of one window each.

        Args:
            requests: By sequence; taken as batches are asked for.
            batch_size: Most requests of a batch.
        """
        batch: list[NumberedRequest] = []
        for logged in requests:
            is_new_window = batch and self.end_of(logged.sequence) != self.end_of(batch[0].sequence)
            if is_new_window or len(batch) == batch_size:
                yield tuple(batch)
                batch = []
            batch.append(NumberedRequest(sequence=logged.sequence, request=logged.request))
        if batch:
            yield tuple(batch)


@dataclass
class OpenWindow:
    """What has been written for the window that is not committed yet."""

    batches: list[WrittenBatch] = field(default_factory=list)

    @property
    def last_sequence(self) -> int:
        """Largest request number so far; 0 when there is none."""
        return self.batches[-1].last_sequence if self.batches else 0

    @property
    def fragments(self) -> list[str]:
        """For `ExpertBank.commit`."""
        return [text for batch in self.batches for text in batch.fragments]
