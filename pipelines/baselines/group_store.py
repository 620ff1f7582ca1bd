"""Scores of finished groups in the folder of a run, so that a command that is repeated skips them.

runs/<run_name>/groups/<editor>/<numbers of edits>_<group>.json.gz

One file for each editor and group, written whole. It begins with the identity of all that its
scores depend on, the code excepted; a file of another identity counts as none.
"""

import gzip
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from liveedit_core.baselines.protocol import EditorMemory
from liveedit_core.errors import IntegrityError
from liveedit_core.evaluation.probes import ProbeResult
from liveedit_core.schema import ProbeKind


@dataclass(frozen=True, kw_only=True)
class RungScores:
    """One editor after the first `num_edits` cases of a group."""

    num_edits: int
    teach_s: float
    """Of all its edits, from the hidden states at l_e on, which all editors share."""
    score_s: float
    memory: EditorMemory
    results: tuple[ProbeResult, ...]
    right_after: tuple[ProbeResult, ...]
    """The edits of the same cases, each asked when it was the last one taught; without the last of
    the group."""
    unrelated: tuple[ProbeResult, ...]
    """Questions about entities of which nothing was taught."""


class GroupStore:
    """Reads and writes the groups of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, editor: str, sizes: Sequence[int], index: int) -> Path:
        name = re.sub(r"[^A-Za-z0-9.]+", "-", editor)
        return self.folder / name / f"{'-'.join(map(str, sizes))}_{index}.json.gz"

    def read(self, path: Path, identity: str) -> list[RungScores] | None:
        """The scores of a group; None where it is not finished under this identity."""
        try:
            tree = json.loads(gzip.decompress(path.read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, EOFError, ValueError) as error:
            message = f"{path}: damaged ({error}); delete it, and the group is taught again"
            raise IntegrityError(message) from error
        if tree["identity"] != identity:
            return None
        return [_rung(rung) for rung in tree["rungs"]]

    def write(self, path: Path, identity: str, rungs: Sequence[RungScores]) -> None:
        tree = {"identity": identity, "rungs": [asdict(rung) for rung in rungs]}
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(".new")
        scratch.write_bytes(gzip.compress(json.dumps(tree).encode(), compresslevel=5))
        scratch.replace(path)


def _rung(tree: dict[str, Any]) -> RungScores:
    names = ("results", "right_after", "unrelated")
    results = {name: tuple(result_of(result) for result in tree[name]) for name in names}
    return RungScores(**{**tree, **results, "memory": EditorMemory(**tree["memory"])})


def result_of(tree: Mapping[str, Any]) -> ProbeResult:
    """A result from its fields as JSON has them."""
    lists = {name: tuple(tree[name]) for name in ("kept", "weights")}
    return ProbeResult(**{**tree, **lists, "kind": ProbeKind(tree["kind"])})
