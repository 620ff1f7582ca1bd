"""Scores probes of a new kind and shows them; run with the changed sources first on the path."""

import sys
from pathlib import Path

from infra.reports.data import EvaluatedVersion, EvaluationReportData
from infra.reports.evaluation import render_evaluation_report
from infra.storage.object_store import ObjectStore
from infra.tracking.results import EvaluationKey, ResultsTable
from liveedit_core.evaluation.probes import PROTOCOLS, ProbeResult
from liveedit_core.evaluation.summaries import metric_values, summarize
from liveedit_core.inputs.datasets import load_cases
from liveedit_core.schema import Case, ProbeKind

folder = Path(sys.argv[1])
kind = ProbeKind("caption_locality")
(case,) = (item for item in load_cases(folder / "cases.jsonl") if isinstance(item, Case))
assert case.probes[0].kind is kind
assert kind.is_locality
results = [
    ProbeResult(
        case_id=case.case_id,
        edit_id=case.edit.edit_id,
        probe_index=1,
        kind=kind,
        protocol=protocol,
        score=0.5,
        is_exact=False,
        target="a",
        answer_before="a",
        answer_after="b",
        kept=(),
        weights=(),
        own_expert_kept=False,
        own_rank=-1,
        own_weight=0.0,
    )
    for protocol in PROTOCOLS
]
table = ResultsTable(ObjectStore(folder / "store"), "run")
key = EvaluationKey(bank="main", bank_version=1, num_edits=1)
table.append(results, key)
read = table.read(key)
assert read == results
summary = summarize(read)
version = EvaluatedVersion(bank="main", bank_version=1, num_edits=1, results=read)
page = render_evaluation_report(EvaluationReportData(version=version, summary=summary, seed=0))
print(metric_values(summary)["caption_locality.teacher_forced"])
print("caption locality" in page)
