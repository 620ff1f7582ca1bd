"""Which results may stand side by side: those of one comparable group.

E-VQA, paper prompts, groups of 10 edits, at most 12 new tokens, backbone 0a1b2c3d (#9f8e7d6c)
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, fields

from liveedit_core.backbones.load_options import PromptProtocol
from liveedit_core.errors import ConfigError
from liveedit_core.schema import Case


@dataclass(frozen=True, kw_only=True)
class ComparableGroup:
    """All that numbers depend on beside the editor that is measured."""

    benchmark: str
    """Name, for people."""
    cases: str
    """Digest of the cases, or of the files they come from."""
    prompts: PromptProtocol
    backbone: str
    """Digest of the backbone."""
    edits: str
    """Against what a probe is asked: "whole bank", "groups of 10 edits"."""
    max_new_tokens: int

    @property
    def digest(self) -> str:
        """sha256 over everything but the name."""
        values = {name: value for name, value in asdict(self).items() if name != "benchmark"}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    def __str__(self) -> str:
        return (
            f"{self.benchmark}, {self.prompts} prompts, {self.edits}, at most "
            f"{self.max_new_tokens} new tokens, backbone {self.backbone[:8]} (#{self.digest[:8]})"
        )


def cases_identity(cases: Iterable[Case]) -> str:
    """sha256 of the cases, whose ids name edit and image, with the edits that they correct and the
    texts of their probes."""
    named = sorted(
        json.dumps(
            [
                case.case_id,
                *(request.edit_id for request in case.earlier),
                *([p.kind, p.variant, p.prompt, p.target] for p in case.probes),
            ]
        )
        for case in cases
    )
    return hashlib.sha256("\n".join(named).encode()).hexdigest()


def check_comparable(
    groups: Mapping[str, ComparableGroup | None], *, except_for: Collection[str] = ()
) -> None:
    """Raise ConfigError if results, by their names, belong to different groups.

    Fields in `except_for` may differ; None, of results stored before groups were, fits all.
    """
    known = {name: group for name, group in groups.items() if group is not None}
    if not known:
        return
    (first, expected), *others = known.items()
    for name, found in others:
        differing = [
            f"{item.name} {getattr(expected, item.name)!r} and {getattr(found, item.name)!r}"
            for item in fields(ComparableGroup)
            if item.name not in ("benchmark", *except_for)
            and getattr(found, item.name) != getattr(expected, item.name)
        ]
        if differing:
            raise ConfigError(
                f"{first} and {name} were measured differently and cannot be compared: "
                f"{'; '.join(differing)}"
            )
