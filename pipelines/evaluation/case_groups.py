"""Which cases of an evaluation are drawn, and how they are grouped on a lifelong curve."""

import hashlib
from collections.abc import Sequence

from liveedit_core.schema import Case


def max_groups(size: int) -> int:
    """Most groups of a lifelong curve at one number of edits: 100 of 1 or 10 edits, ten of 100. All
    of larger ones (0), since each is an evaluation at that number of edits."""
    return min(100, 1000 // size) if size <= 100 else 0


def draw_groups(cases: Sequence[Case], size: int, seed: int) -> list[Case]:
    """The cases of at most `max_groups` groups, in order; whole groups where some are left out."""
    count, num_whole = max_groups(size), len(cases) // size
    if not 0 < count < -(-len(cases) // size):
        return list(cases)
    firsts = [cases[start] for start in range(0, num_whole * size, size)]
    drawn = drawn_case_ids(firsts, count, seed)
    return [
        case
        for start, case in enumerate(cases[: num_whole * size])
        if cases[start - start % size].case_id in drawn
    ]


def groups_of(cases: Sequence[Case], size: int) -> list[tuple[str, ...]]:
    """For each case, the edit_ids of its group; below 0, those up to its own."""
    groups = []
    for start in range(0, len(cases), abs(size)):
        part = cases[start : start + abs(size)]
        taught: dict[str, None] = {}
        upto = []
        for case in part:
            taught |= dict.fromkeys(request.edit_id for request in case.requests)
            upto.append(tuple(taught))
        groups += upto if size < 0 else [tuple(taught)] * len(part)
    return groups


def last_of_groups(cases: Sequence[Case], size: int) -> set[str]:
    """Cases that none of their group follows."""
    return {cases[min(end, len(cases)) - 1].case_id for end in range(size, len(cases) + size, size)}


def drawn_case_ids(cases: Sequence[Case], count: int, seed: int) -> set[str]:
    """A random choice of `count` cases (0: all), the same whenever it is made."""

    def rank(case: Case) -> bytes:
        return hashlib.sha256(f"{seed}:{case.edit.edit_id}".encode()).digest()

    drawn = sorted(cases, key=rank)[: count or len(cases)]
    return {case.case_id for case in drawn}
