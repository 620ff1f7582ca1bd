"""False activations in a bank that is larger than the benchmark: further edits fill it up.

Stranger probes (another image, the prompt of an edit) and the edits themselves are scored against
the edits of all cases and of the crowd. Only routing and the layers after l_e run.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from liveedit_core.evaluation.probes import TEACHER_FORCED, ProbeResult
from liveedit_core.evaluation.scoring import CaseProbe, CaseScorer
from liveedit_core.method.editor import Editor, edit_input
from liveedit_core.method.expert import Expert
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.schema import Case, EditRequest, ProbeKind
from liveedit_core.state_source import StateSource
from pipelines.baselines.group_store import result_of

KINDS = (ProbeKind.RELIABILITY, ProbeKind.IMAGE_SWAP_LOCALITY)
_BATCH = 16
_CHUNK_CASES = 64


def score_large_bank(
    editor: Editor,
    cases: Sequence[Case],
    requests: Sequence[EditRequest],
    file: Path,
    source: StateSource,
    say: Callable[[str], None],
) -> list[ProbeResult]:
    """Results of `KINDS` (teacher_forced) against a bank of `requests`; kept in `file`, so that a
    repeated call reads them. Hidden states come from `source`."""
    if file.exists():
        lines = file.read_text(encoding="utf-8").splitlines()
        return [result_of(json.loads(line)) for line in lines]
    experts: list[Expert] = []
    for start in range(0, len(requests), _BATCH):
        batch = requests[start : start + _BATCH]
        states = source.states([edit_input(request) for request in batch])
        experts += editor.write_experts(batch, states)
        if start % (50 * _BATCH) == 0:
            say(f"large bank: {start:,} of {len(requests):,} edits")
    repository = ExpertRepository.from_experts(editor.generator.config, experts)
    scorer = CaseScorer(editor, batch_size=_BATCH)
    results: list[ProbeResult] = []
    for start in range(0, len(cases), _CHUNK_CASES):
        wanted = [
            CaseProbe(case, index, probe)
            for case in cases[start : start + _CHUNK_CASES]
            for index, probe in enumerate(case.all_probes())
            if probe.kind in KINDS
        ]
        prepared = scorer.prepare_probes(wanted, source=source)
        results += scorer.score(prepared, repository, protocols=(TEACHER_FORCED,))
        say(f"large bank: {min(start + _CHUNK_CASES, len(cases)):,} of {len(cases):,} cases scored")
    partial = file.with_suffix(".partial")
    partial.write_text("".join(json.dumps(asdict(item)) + "\n" for item in results), "utf-8")
    partial.replace(file)
    return results
