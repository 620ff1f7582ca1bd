"""Cases of any origin as training needs them: with an entity and every kind of probe."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace

from liveedit_core.errors import ConfigError
from liveedit_core.schema import Case, Probe, ProbeKind

NEEDED = (ProbeKind.TEXT_GENERALITY, ProbeKind.MODAL_GENERALITY, ProbeKind.MODAL_LOCALITY)
"""Kinds that cannot be derived from the edit."""
_SHOWN = 5
"""Cases named in one message."""


def trainable_cases(cases: Sequence[Case], say: Callable[[str], None] = print) -> list[Case]:
    """Complete the cases of a training split, but for those that lack what cannot be derived.

    A case without an entity is named after its image, so that edits of one image stay together.
    Missing swap probes are made from the modal locality probe, with images exchanged.
    """
    whole = [case for case in cases if not _missing(case)]
    if len(whole) < len(cases):
        lacking = [
            f"{case.case_id} has no {', '.join(gone)}" for case in cases if (gone := _missing(case))
        ]
        say(
            f"{len(lacking)} of {len(cases)} cases cannot be trained on: "
            f"{'; '.join(lacking[:_SHOWN])}. Each needs an edit with an image, and a probe with "
            f"one of every kind of {', '.join(NEEDED)}"
        )
    if not whole:
        raise ConfigError("there are no training cases")
    return [_completed(case) for case in whole]


def _missing(case: Case) -> list[str]:
    there = {probe.kind for probe in case.probes if probe.image_bytes is not None}
    own = ["image of its edit"] if case.edit.image_bytes is None else []
    return own + [kind.value for kind in NEEDED if kind not in there]


def _completed(case: Case) -> Case:
    first: dict[ProbeKind, Probe] = {}
    for probe in case.probes:
        if probe.image_bytes is not None:
            first.setdefault(probe.kind, probe)
    other, edit = first[ProbeKind.MODAL_LOCALITY], case.edit
    swaps = (
        Probe(
            kind=ProbeKind.PROMPT_SWAP_LOCALITY,
            prompt=other.prompt,
            target=other.target,
            image_bytes=edit.image_bytes,
        ),
        Probe(
            kind=ProbeKind.IMAGE_SWAP_LOCALITY,
            prompt=edit.prompt,
            target=edit.target,
            image_bytes=other.image_bytes,
        ),
    )
    made = [probe for probe in swaps if probe.kind not in first]
    entity = case.entity or hashlib.sha256(edit.image_bytes or b"").hexdigest()[:16]
    return replace(case, probes=(*case.probes, *made), entity=entity)
