"""Pages with something in every part, for the tests that read them and those that look at them."""

import io
from dataclasses import replace

from PIL import Image, ImageDraw

from infra.reports.data import (
    ComparisonReportData,
    CurvePoint,
    EditorsReportData,
    EvaluatedVersion,
    EvaluationReportData,
    Example,
    Flip,
    KeptExpert,
    Measure,
    ReportData,
)
from infra.reports.measures import COSTS, GROUPS, TRANSFER
from liveedit_core.evaluation.comparison import (
    IMPROVEMENT,
    LOST,
    NOT_SIGNIFICANT,
    REGRESSION,
    MetricComparison,
    Pair,
)
from liveedit_core.evaluation.probes import FREE_GENERATION, PROTOCOLS, TEACHER_FORCED, ProbeResult
from liveedit_core.evaluation.retention import Retention
from liveedit_core.evaluation.scope import Scope, ScopeShare
from liveedit_core.evaluation.statistics import Interval, PairedDifference
from liveedit_core.evaluation.summaries import MetricSummary
from liveedit_core.schema import EditRequest, Probe, ProbeKind
from tests.unit.tiny_results import probe_result

HOSTILE = '<script>alert(1)</script><img src="http://evil.example/x.png" onerror=alert(2)>'


def image(colour: str, side: int = 96) -> bytes:
    """A coloured disc, PNG."""
    image = Image.new("RGB", (side, side), "white")
    ImageDraw.Draw(image).ellipse((8, 8, side - 8, side - 8), fill=colour)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def metric(kind: ProbeKind, num_cases: int, mean: float) -> MetricSummary:
    """A metric with three probes for each case."""
    has_rank = kind != ProbeKind.TEXT_LOCALITY
    return MetricSummary(
        mean=mean,
        interval=Interval(low=max(0.0, mean - 0.04), high=min(1.0, mean + 0.03)),
        exact_mean=mean - 0.1,
        exact_interval=Interval(low=mean - 0.15, high=mean - 0.05),
        num_samples=3 * num_cases,
        num_cases=num_cases,
        num_entities=num_cases,
        kept_mean=0.35 if kind.is_locality else 1.85,
        kept_p95=3.0,
        empty_fraction=0.72 if kind.is_locality else 0.031,
        own_kept_fraction=0.012 if kind.is_locality else 0.931,
        own_first_fraction=0.008 if kind.is_locality else 0.874,
        own_rank_mean=0.07 if has_rank else None,
        own_weight_mean=0.83 if has_rank else None,
    )


def edit(name: str, colour: str, prompt: str) -> EditRequest:
    """An edit with an image."""
    return EditRequest(image_bytes=image(colour), prompt=prompt, target=name)


def expert(name: str, colour: str, weight: float, *, is_own: bool = False) -> KeptExpert:
    """A kept expert with an image."""
    prompt = f"Who owns the {name}, and " + "where was it seen last, " * 4 + "do you know?"
    return KeptExpert(
        edit_id=name * 8, edit=edit(name, colour, prompt), weight=weight, is_own=is_own
    )


def example(kind: ProbeKind, score: float, prompt: str = "What is shown here?") -> Example:
    """A scored probe."""
    result = probe_result(
        f"case-{kind}",
        kind=kind,
        score=score,
        before="a kite",
        after="a red kite" if score < 1 else "a red balloon",
    )
    shown = None if kind == ProbeKind.TEXT_LOCALITY else image("crimson")
    own, other = expert("balloon", "crimson", 0.81, is_own=True), expert("kite", "teal", 0.12)
    return Example(
        result=replace(result, target="a red balloon"),
        probe=Probe(kind=kind, prompt=prompt, target="a red balloon", image_bytes=shown),
        num_edits=100,
        kept=() if kind.is_locality else (own, other),
    )


def version(label: str, bank_version: int, num_edits: int) -> EvaluatedVersion:
    """A version with a result for each of 100 cases."""
    return EvaluatedVersion(
        label=label,
        bank="main",
        bank_version=bank_version,
        num_edits=num_edits,
        results=[probe_result(f"case-{i}") for i in range(100)],
    )


def evaluation_example() -> EvaluationReportData:
    """The page of an evaluation."""
    scores = (0.96, 0.93, 0.81, 1.0, 0.97, 0.88, 0.9, 0.92, 0.45, 0.4, 0.5)
    means = dict(zip(ProbeKind, scores, strict=True))
    points = [
        CurvePoint(
            num_edits=num_edits,
            summary={
                (kind, protocol): metric(
                    kind, num_edits, mean - (0.0 if kind == "text_locality" else 0.02 * step)
                )
                for protocol in PROTOCOLS
                for kind, mean in means.items()
            },
        )
        for step, num_edits in enumerate((1, 10, 100))
    ]
    return EvaluationReportData(
        version=replace(version("newest", 4, 100), is_complete=False),
        summary=points[-1].summary,
        seed=7,
        duration_s=83.0,
        curve=points,
        examples=[example(kind, 1.0) for kind in ProbeKind],
        worst_cases=[
            example(ProbeKind.RELIABILITY, 0.5, HOSTILE),
            example(ProbeKind.MODAL_LOCALITY, 0.0),
        ],
        warnings=["3 of 2,400 probes have no result."],
        facts={"store": "s3://bucket/prefix", "recipe": HOSTILE},
    )


def with_labels(point: CurvePoint) -> CurvePoint:
    """The point with a hostile variant, two lengths of target, and the scope of its edits."""
    kind, share = ProbeKind.MODAL_GENERALITY, Interval(low=0.1, high=0.4)
    return replace(
        point,
        by_variant={(kind, f"mirrored {HOSTILE}", TEACHER_FORCED): metric(kind, 7, 0.5)},
        by_tag={
            "length": {
                (kind, value, TEACHER_FORCED): metric(kind, num_cases, 0.5)
                for value, num_cases in (("11-24", 2), ("3-5", 9))
            }
        },
        scope={
            (scope, protocol): ScopeShare(
                num_in_class=25, num_cases=100, fraction=0.25, interval=share
            )
            for scope in Scope
            for protocol in PROTOCOLS
        },
    )


def run_example() -> ReportData:
    """The report of an editing run that drew a lifelong curve of 1 000 cases."""
    evaluation = evaluation_example()
    scores = (0.99, 0.95, 0.84, 1.0, 0.98, 0.9, 0.92, 0.94, 0.45, 0.4, 0.5)
    means = dict(zip(ProbeKind, scores, strict=True))
    curve = [
        CurvePoint(
            num_edits=num_edits,
            num_groups=1000 // num_edits,
            summary={
                (kind, protocol): metric(kind, num_cases, mean - slope * step)
                for protocol, num_cases in zip(PROTOCOLS, (1000, 100), strict=True)
                for kind, mean in means.items()
                for slope in [0.0 if kind == ProbeKind.TEXT_LOCALITY else 0.01]
            },
        )
        for step, num_edits in enumerate((1, 10, 100, 1000))
    ]
    lost = PairedDifference(
        mean=-0.04,
        low=-0.06,
        high=-0.02,
        p_value=0.001,
        p_value_better=1.0,
        num_samples=1000,
        num_entities=700,
    )
    kept = Retention(
        right_after=0.99,
        right_after_interval=Interval(low=0.98, high=1.0),
        after_all=0.95,
        after_all_interval=Interval(low=0.93, high=0.97),
        difference=lost,
    )
    curve[-1] = replace(
        curve[-1], comparable_group="E-VQA, paper prompts", retention={TEACHER_FORCED: kept}
    )
    return ReportData(
        title="Lifelong editing: example",
        seed=7,
        num_edits=1000,
        duration_s=412.0,
        metrics=[*evaluation.curve[:-1], with_labels(evaluation.curve[-1])],
        curve=curve,
        examples=evaluation.examples,
        worst_cases=evaluation.worst_cases,
        facts=evaluation.facts,
    )


def comparison(kind: ProbeKind, protocol: str, value: float, verdict: str) -> MetricComparison:
    """A compared metric."""
    is_regression = verdict == REGRESSION
    return MetricComparison(
        kind=kind,
        protocol=protocol,
        old_mean=0.9,
        new_mean=0.9 + value,
        difference=PairedDifference(
            mean=value,
            low=value - 0.03,
            high=value + 0.02,
            p_value=0.0002 if is_regression else 0.61,
            p_value_better=0.5,
            num_samples=240,
            num_entities=100,
        ),
        adjusted_p_value=0.0014 if is_regression else 1.0,
        tolerance=0.01,
        is_regression=is_regression,
        is_improvement=verdict == IMPROVEMENT,
    )


def changed(direction: str, kind: ProbeKind, case_id: str, probe_index: int = 0) -> Pair:
    """Free answers of a probe that flipped."""

    def scored(is_right: bool) -> ProbeResult:
        result = probe_result(
            case_id,
            kind=kind,
            protocol=FREE_GENERATION,
            probe_index=probe_index,
            score=float(is_right),
            before="a toy",
            after="a red balloon" if is_right else "a kite",
        )
        return replace(result, target="a red balloon")

    return scored(direction == LOST), scored(direction != LOST)


def flip(direction: str, kind: ProbeKind, prompt: str = "What is shown here?") -> Flip:
    """A probe that flipped, as it is shown."""
    old, new = changed(direction, kind, f"case-{kind}")
    own = (expert("balloon", "crimson", 0.81, is_own=True),)
    return Flip(
        old=old,
        new=new,
        probe=Probe(kind=kind, prompt=prompt, target="a red balloon", image_bytes=image("crimson")),
        kept_old=own if direction == LOST else (),
        kept_new=(expert("kite", "teal", 0.66),) if direction == LOST else own,
    )


def comparison_example() -> ComparisonReportData:
    """The page of a comparison."""
    verdicts = (REGRESSION, NOT_SIGNIFICANT, IMPROVEMENT)
    values = {REGRESSION: -0.12, NOT_SIGNIFICANT: -0.002, IMPROVEMENT: 0.06}
    comparisons = [
        comparison(kind, protocol, 0.0, NOT_SIGNIFICANT)
        if kind == ProbeKind.TEXT_LOCALITY
        else comparison(kind, protocol, values[verdicts[i % 3]], verdicts[i % 3])
        for protocol in PROTOCOLS
        for i, kind in enumerate(ProbeKind)
    ]
    kind = ProbeKind.RELIABILITY
    same = probe_result("case-0", kind=kind, protocol=TEACHER_FORCED)
    lost = [changed("lost", kind, f"case-{i}") for i in range(90)]
    gained = [changed("gained", kind, f"case-{i}") for i in range(90, 92)]
    unchanged = [(replace(same, case_id=f"case-{i}"),) * 2 for i in range(100)]
    return ComparisonReportData(
        old=version("champion", 4, 100),
        new=version("newest", 7, 200),
        seed=7,
        pairs=[*lost, *gained, *((a, b) for a, b in unchanged)],
        comparisons=comparisons,
        flips=[
            *(flip("lost", kind, prompt) for prompt in (HOSTILE, "Who is it?", "What now?")),
            flip("gained", ProbeKind.MODAL_GENERALITY),
            flip("gained", ProbeKind.IMAGE_SWAP_LOCALITY),
        ],
        warnings=["The versions hold different numbers of edits."],
        facts={"store": "s3://bucket/prefix", "recipe": HOSTILE},
    )


def editors_example() -> EditorsReportData:
    """The page of nine editors and the unedited model after 1, 10 and 100 edits."""
    editors = [*(f"editor_{n}" for n in range(8)), HOSTILE, "unedited"]
    measures = []
    for step, size in enumerate((1, 10, 100)):
        for row, editor in enumerate(editors):
            for name in (name for names in GROUPS.values() for name in names):
                value = 0.25 if name.startswith("scope.") else 0.9 - 0.05 * row - 0.1 * step
                if name == TRANSFER:
                    value = -0.02 * row
                item = Measure(
                    editor=editor,
                    num_edits=size,
                    name=name,
                    protocol=TEACHER_FORCED,
                    value=value,
                    interval=Interval(value - 0.04, value + 0.03),
                    num_samples=100,
                )
                measures.append(item)
                if name in GROUPS["Retention"]:
                    measures.append(replace(item, protocol=FREE_GENERATION, num_samples=20))
            measures += [
                Measure(editor=editor, num_edits=size, name=name, protocol="", value=2.0e6)
                for name in COSTS
            ]
    return EditorsReportData(
        title="Editors after 1, 10, 100 edits",
        seed=7,
        measures=measures,
        trained_on=dict.fromkeys(editors, HOSTILE),
        num_trials=dict.fromkeys(editors, 8),
        facts={"cases": HOSTILE},
    )
