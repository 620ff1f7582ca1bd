"""Pages with something in every part, for the tests that read them and those that look at them."""

import io
from dataclasses import replace

from PIL import Image, ImageDraw

from infra.reports.data import (
    GAINED,
    IMPROVEMENT,
    LOST,
    NO_DIFFERENCE,
    REGRESSION,
    ComparisonReportData,
    CurvePoint,
    EditView,
    EvaluationReportData,
    Example,
    Flip,
    FlipCount,
    KeptExpert,
    MetricDifference,
    MetricRow,
    ReportData,
    VersionView,
)
from liveedit_core.schema import ProbeKind

HOSTILE = '<script>alert(1)</script><img src="http://evil.example/x.png" onerror=alert(2)>'
PROTOCOLS = ("teacher_forced", "free_generation")


def image(colour: str, side: int = 96) -> bytes:
    """A coloured disc, PNG."""
    image = Image.new("RGB", (side, side), "white")
    ImageDraw.Draw(image).ellipse((8, 8, side - 8, side - 8), fill=colour)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def metric(kind: str, num_edits: int, mean: float, protocol: str = "teacher_forced") -> MetricRow:
    """A row with every number filled in."""
    is_locality = kind.endswith("_locality")
    return MetricRow(
        num_edits=num_edits,
        kind=kind,
        protocol=protocol,
        mean=mean,
        num_samples=3 * num_edits,
        num_cases=num_edits,
        low=max(0.0, mean - 0.04),
        high=min(1.0, mean + 0.03),
        exact_mean=mean - 0.1,
        exact_low=mean - 0.15,
        exact_high=mean - 0.05,
        kept_mean=0.35 if is_locality else 1.85,
        kept_p95=3.0,
        empty_kept_fraction=0.72 if is_locality else 0.031,
        own_kept_fraction=0.012 if is_locality else 0.931,
        own_first_fraction=0.008 if is_locality else 0.874,
        own_rank_mean=None if kind == "text_locality" else 1.07,
        own_weight_mean=None if kind == "text_locality" else 0.83,
    )


def expert(name: str, colour: str, weight: float, *, is_own: bool = False) -> KeptExpert:
    """A kept expert with an image."""
    prompt = f"Who owns the {name}, and " + "where was it seen last, " * 4 + "do you know?"
    edit = EditView(edit_id=name * 8, prompt=prompt, target=name, image_bytes=image(colour))
    return KeptExpert(edit=edit, weight=weight, is_own=is_own)


def example(kind: str, score: float, prompt: str = "What is shown here?") -> Example:
    """An examined probe."""
    return Example(
        case_id=f"case-{kind}",
        num_edits=100,
        kind=kind,
        protocol="teacher_forced",
        score=score,
        prompt=prompt,
        target="a red balloon",
        answer_before="a kite",
        answer_after="a red kite" if score < 1 else "a red balloon",
        image_bytes=None if kind == "text_locality" else image("crimson"),
        kept=()
        if kind.endswith("locality")
        else (expert("balloon", "crimson", 0.81, is_own=True), expert("kite", "teal", 0.12)),
    )


def evaluation_example() -> EvaluationReportData:
    """A page of an evaluation."""
    means = dict(zip(ProbeKind, (0.96, 0.93, 0.81, 1.0, 0.97, 0.88, 0.9, 0.4), strict=True))
    rows = [
        metric(kind.value, n, mean - (0.0 if kind == "text_locality" else 0.02 * step), protocol)
        for protocol in PROTOCOLS
        for step, n in enumerate((1, 10, 100))
        for kind, mean in means.items()
    ]
    return EvaluationReportData(
        title="Evaluation of main, version 4",
        subtitle="100 edits, examined on 100 cases",
        seed=7,
        bank="main",
        bank_version=4,
        num_edits=100,
        num_cases=100,
        is_complete=False,
        duration_s=83.0,
        metrics=[row for row in rows if row.num_edits == 100],
        curve=rows,
        examples=[example(kind.value, 1.0) for kind in ProbeKind],
        worst_cases=[example("reliability", 0.5, HOSTILE), example("modal_locality", 0.0)],
        warnings=["3 of 2,400 probes have no result."],
        facts={"store": "s3://bucket/prefix", "recipe": HOSTILE},
    )


def run_example() -> ReportData:
    """The report of an editing run that drew a lifelong curve of 1 000 cases."""
    evaluation = evaluation_example()
    means = dict(zip(ProbeKind, (0.99, 0.95, 0.84, 1.0, 0.98, 0.9, 0.92, 0.4), strict=True))
    curve = [
        CurvePoint(
            num_edits=num_edits,
            num_groups=1000 // num_edits,
            metrics=[
                replace(
                    metric(kind.value, num_edits, mean - slope * step, protocol),
                    num_samples=3 * num_cases,
                    num_cases=num_cases,
                )
                for protocol, num_cases in zip(PROTOCOLS, (1000, 100), strict=True)
                for kind, mean in means.items()
                for slope in [0.0 if kind == ProbeKind.TEXT_LOCALITY else 0.01]
            ],
        )
        for step, num_edits in enumerate((1, 10, 100, 1000))
    ]
    return ReportData(
        title="Lifelong editing: example",
        seed=7,
        num_edits=1000,
        duration_s=412.0,
        metrics=evaluation.curve,
        curve=curve,
        examples=evaluation.examples,
        worst_cases=evaluation.worst_cases,
        facts=evaluation.facts,
    )


def difference(kind: str, protocol: str, value: float, verdict: str) -> MetricDifference:
    """A compared metric."""
    return MetricDifference(
        kind=kind,
        protocol=protocol,
        old_mean=0.9,
        new_mean=0.9 + value,
        difference=value,
        low=value - 0.03,
        high=value + 0.02,
        p_value=0.0002 if verdict == REGRESSION else 0.61,
        adjusted_p_value=0.0014 if verdict == REGRESSION else 1.0,
        tolerance=0.01,
        verdict=verdict,
        num_samples=240,
        num_cases=100,
    )


def flip(direction: str, kind: str, prompt: str = "What is shown here?") -> Flip:
    """A probe that flipped."""
    answers = ("a red balloon", "a kite")
    old, new = answers if direction == LOST else answers[::-1]
    kept = (expert("balloon", "crimson", 0.81, is_own=True),)
    return Flip(
        direction=direction,
        case_id=f"case-{kind}",
        kind=kind,
        protocol="free_generation",
        prompt=prompt,
        target="a red balloon",
        answer_unedited="a toy",
        answer_old=old,
        answer_new=new,
        score_old=1.0 if direction == LOST else 0.0,
        score_new=0.0 if direction == LOST else 1.0,
        image_bytes=image("crimson"),
        kept_old=kept if direction == LOST else (),
        kept_new=(expert("kite", "teal", 0.66),) if direction == LOST else kept,
    )


def comparison_example() -> ComparisonReportData:
    """A page of a comparison."""
    verdicts = (REGRESSION, NO_DIFFERENCE, IMPROVEMENT)
    values = {REGRESSION: -0.12, NO_DIFFERENCE: -0.002, IMPROVEMENT: 0.06}
    differences = [
        difference(kind.value, protocol, 0.0, NO_DIFFERENCE)
        if kind == ProbeKind.TEXT_LOCALITY
        else difference(kind.value, protocol, values[verdicts[i % 3]], verdicts[i % 3])
        for protocol in PROTOCOLS
        for i, kind in enumerate(ProbeKind)
    ]
    return ComparisonReportData(
        title="main: version 7 against version 4",
        subtitle="newest against champion",
        seed=7,
        old=VersionView(label="champion", bank="main", bank_version=4, num_edits=100),
        new=VersionView(label="newest", bank="main", bank_version=7, num_edits=200),
        num_cases=100,
        differences=differences,
        flip_counts=[
            FlipCount(
                kind="reliability",
                protocol="free_generation",
                num_lost=90,
                num_gained=2,
                num_samples=240,
            )
        ],
        num_lost=90,
        num_gained=2,
        flips=[
            *(flip(LOST, "reliability", prompt) for prompt in (HOSTILE, "Who is it?", "What now?")),
            flip(GAINED, "modal_generality"),
            flip(GAINED, "image_swap_locality"),
        ],
        test="Sign-flip permutation test over cases, 10,000 resamples; Holm's correction.",
        warnings=["The versions hold different numbers of edits."],
        facts={"store": "s3://bucket/prefix", "recipe": HOSTILE},
    )
