"""The evaluation protocol in one import: probes, scores, summaries (METHOD.md 7).

cases --prepare--> prepared cases --score--> results --summarize--> metrics with intervals
      scoring.py   prepared_cases.py         probe_results.py       summaries.py
"""

from liveedit_core.evaluation.probe_results import (
    FREE_GENERATION,
    NOT_KEPT,
    PROTOCOLS,
    TEACHER_FORCED,
    ProbeResult,
    normalize_answer,
)
from liveedit_core.evaluation.probes import (
    PreparedCases,
    PreparedProbe,
    free_generation_result,
    probe_input,
    teacher_forced_result,
)
from liveedit_core.evaluation.scoring import MAX_LOCALITY_TOKENS, CaseScorer
from liveedit_core.evaluation.statistics import Interval, bootstrap_interval
from liveedit_core.evaluation.summaries import (
    BY_CONSTRUCTION,
    HopSummary,
    MetricSummary,
    Summary,
    paper_average,
    summarize,
    summarize_hops,
    summary_of,
)

__all__ = [
    "BY_CONSTRUCTION",
    "FREE_GENERATION",
    "MAX_LOCALITY_TOKENS",
    "NOT_KEPT",
    "PROTOCOLS",
    "TEACHER_FORCED",
    "CaseScorer",
    "HopSummary",
    "Interval",
    "MetricSummary",
    "PreparedCases",
    "PreparedProbe",
    "ProbeResult",
    "Summary",
    "bootstrap_interval",
    "free_generation_result",
    "normalize_answer",
    "paper_average",
    "probe_input",
    "summarize",
    "summarize_hops",
    "summary_of",
    "teacher_forced_result",
]
