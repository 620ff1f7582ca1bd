"""Several editors, the same edits in the same order, the same probes: one table.

The edits are taught first, all of them; then the cases are prepared and scored in chunks, each by
every editor, so that memory does not grow with their number. One process, no Ray.
"""

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from liveedit_core.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from liveedit_core.backbones.huggingface import HuggingFaceBackbone
    from liveedit_core.baselines.protocol import ComparedEditor
    from liveedit_core.generator import LiveEditGenerator
    from liveedit_core.metrics import MetricSummary, ProbeResult
    from liveedit_core.schema import Case, ProbeKind

    Summary = Mapping[tuple[ProbeKind, str], MetricSummary]

EDITORS = ("liveedit", "ft-l", "unedited")
CHUNK_CASES = 32
"""Cases prepared at a time: 250 probes of some 150 kB for the built-in backbone."""


@dataclass(frozen=True, kw_only=True)
class FineTuningSection:
    """FT-L, see `liveedit_core.baselines.fine_tuning`."""

    max_steps: int = 25
    """Adam steps of one edit."""
    learning_rate: float = 1e-3
    """Of Adam."""
    stop_loss: float = 1e-2
    """An edit ends early below this loss; 0 never does."""


@dataclass(frozen=True, kw_only=True)
class CompareRecipe:
    """Settings of `compare_editors.py`."""

    job: ClassVar[str] = "compare_editors"

    seed: int = 0
    """Decides which evaluation cases are edited, and in which order."""
    edits: int = 100
    """Edits taught one after another; all of them before anything is scored."""
    scored_cases: int = 0
    """Score so many of the taught cases, evenly spread over the sequence; 0 takes all."""
    free_cases: int = 50
    """Of the scored cases, so many are scored under free generation as well."""
    max_new_tokens: int = 12
    """Longest free answer, in tokens."""
    batch_size: int = 16
    """Probes in one forward pass."""
    editors: tuple[str, ...] = EDITORS
    """Which to compare: "liveedit", "ft-l", "unedited"."""
    generator: str = "builtin"
    """Folder of LiveEdit's generator checkpoint, or "builtin"."""
    output: str = ""
    """JSON file for the table; empty: print it only."""
    fine_tuning: FineTuningSection = field(default_factory=FineTuningSection)

    def __post_init__(self) -> None:
        """Refuse counts below their floor and unknown editors."""
        for name, least in (
            ("seed", 0),
            ("edits", 1),
            ("scored_cases", 0),
            ("free_cases", 0),
            ("max_new_tokens", 1),
            ("batch_size", 1),
        ):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not self.editors or not set(self.editors) <= set(EDITORS):
            raise ConfigError(
                f"editors must be some of {', '.join(EDITORS)}; got {list(self.editors)}"
            )


@dataclass(frozen=True, kw_only=True)
class EditorScores:
    """What one editor reached."""

    name: str
    summary: "Summary"
    teach_s: float
    score_s: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All editors after the same edits."""

    recipe: CompareRecipe
    num_edits: int
    num_scored_cases: int
    scores: tuple[EditorScores, ...]
    digests: Mapping[str, str]


def make_editors(
    recipe: CompareRecipe, backbone: "HuggingFaceBackbone", generator: "LiveEditGenerator"
) -> "list[ComparedEditor]":
    """The editors that the recipe names, untaught."""
    from liveedit_core.baselines.fine_tuning import FineTuning, FineTuningConfig
    from liveedit_core.baselines.live_edit import LiveEdit
    from liveedit_core.baselines.unedited import Unedited
    from liveedit_core.editor import Editor
    from liveedit_core.repository import ExpertRepository

    def live_edit() -> "ComparedEditor":
        editor = Editor(backbone, generator, ExpertRepository.empty(generator.config))
        return LiveEdit(editor, batch_size=recipe.batch_size)

    def fine_tuning() -> "ComparedEditor":
        config = FineTuningConfig(
            max_steps=recipe.fine_tuning.max_steps,
            learning_rate=recipe.fine_tuning.learning_rate,
            stop_loss=recipe.fine_tuning.stop_loss,
        )
        return FineTuning(backbone, config, batch_size=recipe.batch_size)

    makers: dict[str, Callable[[], ComparedEditor]] = {
        "liveedit": live_edit,
        "ft-l": fine_tuning,
        "unedited": lambda: Unedited(backbone),
    }
    return [makers[name]() for name in recipe.editors]


def choose_cases(recipe: CompareRecipe, cases: "Sequence[Case]") -> "list[Case]":
    """The taught cases in the order of teaching.

    Raises:
        ConfigError: There are fewer cases than edits.
    """
    if recipe.edits > len(cases):
        raise ConfigError(f"edits must be at most {len(cases)} (all cases), got {recipe.edits}")
    return random.Random(recipe.seed).sample(list(cases), recipe.edits)


def compare(
    recipe: CompareRecipe,
    backbone: "HuggingFaceBackbone",
    generator: "LiveEditGenerator",
    cases: "Sequence[Case]",
    say: Callable[[str], None],
) -> Comparison:
    """Teach all edits to all editors, then score them."""
    from liveedit_core.metrics import summarize

    taught = choose_cases(recipe, cases)
    editors = make_editors(recipe, backbone, generator)
    teach_s = teach_all(editors, taught, backbone, say)
    count = recipe.scored_cases or len(taught)
    step = max(len(taught) / count, 1.0)
    scored = [taught[int(i * step)] for i in range(min(count, len(taught)))]
    results, score_s = score_all(recipe, editors, scored, backbone, generator, say)
    return Comparison(
        recipe=recipe,
        num_edits=len(taught),
        num_scored_cases=len(scored),
        scores=tuple(
            EditorScores(
                name=editor.name,
                summary=summarize(results[editor.name]),
                teach_s=teach_s[editor.name],
                score_s=score_s[editor.name],
            )
            for editor in editors
        ),
        digests={"backbone": backbone.digest, "generator": generator.digest},
    )


def chunks(cases: "Sequence[Case]") -> "Iterator[Sequence[Case]]":
    """Cases in pieces that fit into memory."""
    for start in range(0, len(cases), CHUNK_CASES):
        yield cases[start : start + CHUNK_CASES]


def teach_all(
    editors: "Sequence[ComparedEditor]",
    cases: "Sequence[Case]",
    backbone: "HuggingFaceBackbone",
    say: Callable[[str], None],
) -> dict[str, float]:
    """Teach the edits in order; returns seconds by editor."""
    from liveedit_core.editor import edit_input

    seconds = dict.fromkeys((editor.name for editor in editors), 0.0)
    done = 0
    for chunk in chunks(cases):
        requests = [case.edit for case in chunk]
        states = backbone.encode([edit_input(request) for request in requests])
        for editor in editors:
            start_s = time.perf_counter()
            editor.teach(requests, states)
            seconds[editor.name] += time.perf_counter() - start_s
        done += len(chunk)
        say(f"taught {done} of {len(cases)} edits")
    return seconds


def score_all(
    recipe: CompareRecipe,
    editors: "Sequence[ComparedEditor]",
    cases: "Sequence[Case]",
    backbone: "HuggingFaceBackbone",
    generator: "LiveEditGenerator",
    say: Callable[[str], None],
) -> "tuple[dict[str, list[ProbeResult]], dict[str, float]]":
    """Score the cases with every editor; returns results and seconds by editor."""
    from liveedit_core.editor import Editor
    from liveedit_core.metrics import PROTOCOLS, CaseScorer, PreparedCases
    from liveedit_core.repository import ExpertRepository

    empty = Editor(backbone, generator, ExpertRepository.empty(generator.config))
    scorer = CaseScorer(empty, batch_size=recipe.batch_size)
    results: dict[str, list[ProbeResult]] = {editor.name: [] for editor in editors}
    seconds = dict.fromkeys(results, 0.0)
    done = 0
    for chunk in chunks(cases):
        num_free = max(0, min(len(chunk), recipe.free_cases - done))
        new_tokens = recipe.max_new_tokens
        free = scorer.prepare(chunk[:num_free], has_free_answers=True, max_new_tokens=new_tokens)
        forced = scorer.prepare(chunk[num_free:])
        prepared = PreparedCases(probes=free.probes + forced.probes)
        for editor in editors:
            start_s = time.perf_counter()
            results[editor.name] += editor.score(
                prepared, protocols=PROTOCOLS, max_new_tokens=new_tokens
            )
            seconds[editor.name] += time.perf_counter() - start_s
        done += len(chunk)
        say(f"scored {done} of {len(cases)} cases")
    return results, seconds


def to_json(comparison: Comparison) -> str:
    """The comparison as JSON: one entry per editor, metric and protocol."""
    from liveedit_core.metrics import TEACHER_FORCED, paper_average

    rows: list[dict[str, Any]] = []
    for scores in comparison.scores:
        for (kind, protocol), metric in sorted(scores.summary.items()):
            rows.append(
                {
                    "editor": scores.name,
                    "metric": str(kind),
                    "protocol": protocol,
                    "mean": round(metric.mean, 6),
                    "num_samples": metric.num_samples,
                }
            )
    tree = {
        "num_edits": comparison.num_edits,
        "num_scored_cases": comparison.num_scored_cases,
        "seed": comparison.recipe.seed,
        "digests": dict(comparison.digests),
        "paper_average": {
            scores.name: {TEACHER_FORCED: round(paper_average(dict(scores.summary)), 6)}
            for scores in comparison.scores
        },
        "seconds": {
            scores.name: {"teach": round(scores.teach_s, 1), "score": round(scores.score_s, 1)}
            for scores in comparison.scores
        },
        "rows": rows,
    }
    return json.dumps(tree, indent=2) + "\n"


def write_json(comparison: Comparison, path: Path) -> None:
    """Write the comparison to a file; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_json(comparison), encoding="utf-8")


def to_tables(comparison: Comparison) -> "list[Table]":
    """One table a protocol; numbers of two protocols never share a column."""
    from rich.table import Table

    from liveedit_core.metrics import PROTOCOLS, TEACHER_FORCED, paper_average
    from liveedit_core.schema import ProbeKind

    head = f"after {comparison.num_edits} edits, seed {comparison.recipe.seed}, mean in %"
    tables = []
    for protocol in PROTOCOLS:
        table = Table(title=f"{protocol}: {head}", title_justify="left")
        for column in ("metric", "samples", *(scores.name for scores in comparison.scores)):
            table.add_column(column, justify="left" if column == "metric" else "right")
        for kind in ProbeKind:
            found = [scores.summary.get((kind, protocol)) for scores in comparison.scores]
            means = [f"{100 * metric.mean:.1f}" if metric else "" for metric in found]
            if any(means):
                samples = max(metric.num_samples for metric in found if metric)
                table.add_row(str(kind), str(samples), *means)
        if protocol == TEACHER_FORCED:
            averages = [paper_average(dict(scores.summary)) for scores in comparison.scores]
            table.add_section()
            table.add_row("average of the paper's five", "", *(f"{100 * a:.1f}" for a in averages))
        if table.row_count:
            tables.append(table)
    return tables
