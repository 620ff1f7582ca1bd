"""The report of a training run."""

from collections.abc import Iterable, Mapping, Sequence

from infra.reports.data import Histogram, TrainingReportData
from infra.reports.formats import count, duration, percent, spell
from infra.reports.page import Tile, render_page
from infra.reports.plots import Line, Plot, plot_by_step, plot_histogram
from liveedit_core.schema import PAPER_METRICS

MAX_WORST_CASES = 24

_SHARES = ("accuracy", "passes", "kept", "first", "fraction", "beaten", "wins")
"""A quantity whose last word is one of these is a share of the batch, any other is a loss."""
_NORMS = ("routing.expert_norm_median", "routing.expert_norm_max")

_Points = dict[str, list[tuple[int, float]]]
"""Step and value, by name of the quantity."""


def render_training_report(data: TrainingReportData) -> str:
    drawn = [item for item in data.histograms if any(item.samples.values())]
    return render_page(
        "training_report.html.j2",
        title=data.title,
        subtitle=data.subtitle,
        data=data,
        tiles=training_tiles(data),
        closed_forms=closed_forms(data),
        phases=phase_plots(data),
        validations=validation_plots(data),
        histograms=[histogram_plot(item) for item in drawn],
        worst_cases=data.worst_cases[:MAX_WORST_CASES],
    )


def training_tiles(data: TrainingReportData) -> list[Tile]:
    """The numbers of the first screen, measured at the last validation."""
    rows = [row for row in data.curve if "validation.average" in row]
    last = rows[-1] if rows else {}
    steps = sum(data.phase_steps.values())
    note = ", ".join(f"{spell(name)} {num:,}" for name, num in data.phase_steps.items())
    tiles = [Tile(label="training steps", value=count(steps), note=note)]
    for name, label, note in (
        ("validation.average", "average of five metrics", "held-out entities, teacher-forced"),
        ("validation.reliability", "reliability", "held-out entities, teacher-forced"),
        ("validation.modal_generality", "modal generality", "other images, teacher-forced"),
        ("routing.own_kept", "own expert kept", "on probes that ask for its edit"),
        ("routing.sentinel_beaten", "sentinel beaten", "by any expert, on other images"),
    ):
        if name in last:
            tiles.append(Tile(label=label, value=percent(float(last[name])), note=note))
    tiles.append(
        Tile(
            label="warnings",
            value=str(len(data.warnings)),
            note="listed below" if data.warnings else "none at the last validation",
            is_alert=bool(data.warnings),
        )
    )
    tiles.append(Tile(label="wall time", value=duration(data.duration_s)))
    return tiles


def closed_forms(data: TrainingReportData) -> list[tuple[str, dict[str, float]]]:
    """Results of phases without optimizer steps, such as the fit of the visual key."""
    return [
        (str(row["phase"]), quantities_of(row))
        for row in data.curve
        if row["phase"] not in data.phase_steps
    ]


def phase_plots(data: TrainingReportData) -> list[Plot]:
    """Losses and shares of each phase, then learning rate and gradient norm of all phases."""
    plots = []
    common: dict[str, list[Line]] = {"learning_rate": [], "gradient_norm": []}
    for phase, num_steps in data.phase_steps.items():
        steps = [row for row in data.curve if row["phase"] == phase and not is_validation(row)]
        points = _points((int(row["step"]), row) for row in steps)
        for name, of_phases in common.items():
            if name in points:
                of_phases.append(_series(spell(phase), points.pop(name)))
        shares = {name for name in points if name.rsplit("_", 1)[-1] in _SHARES}
        for title, chosen, is_fraction in (
            ("losses", set(points) - shares, False),
            ("accuracies", shares, True),
        ):
            if chosen:
                series = [_series(spell(n), points[n]) for n in points if n in chosen]
                caption = f"On the batch of each step; {num_steps:,} steps. Seed {data.seed}."
                plots.append(_step_plot(f"{spell(phase)}: {title}", series, caption, is_fraction))
    for name, of_phases in common.items():
        if of_phases:
            caption = "Steps counted within each phase."
            plots.append(_step_plot(spell(name), of_phases, caption, is_fraction=False))
    return plots


def validation_plots(data: TrainingReportData) -> list[Plot]:
    """Metrics, routing shares and norms on held-out entities, over the steps of the whole run."""
    offsets: dict[str, int] = {}
    start = 0
    for phase, num_steps in data.phase_steps.items():
        offsets[phase] = start
        start += num_steps
    points = _points(
        (offsets.get(str(row["phase"]), 0) + int(row["step"]), row)
        for row in data.curve
        if is_validation(row)
    )
    five = ["validation.average", *(f"validation.{kind.value}" for kind in PAPER_METRICS)]
    groups = (
        ("the five metrics", five, True),
        ("other metrics", [n for n in points if n.startswith("validation.")], True),
        ("routing", [n for n in points if n.startswith("routing.") and n not in _NORMS], True),
        ("norm of experts", list(_NORMS), False),
    )
    plots = []
    for title, names, is_fraction in groups:
        chosen = [name for name in names if name in points]
        if title == "other metrics":
            chosen = [name for name in chosen if name not in five]
        if chosen:
            series = [_series(spell(name.partition(".")[2]), points[name]) for name in chosen]
            caption = "On held-out training entities; steps counted over all phases."
            plots.append(_step_plot(f"validation: {title}", series, caption, is_fraction))
    return plots


def histogram_plot(histogram: Histogram) -> Plot:
    samples = {label: values for label, values in histogram.samples.items() if values}
    title = histogram.title
    svg = plot_histogram(samples, title, x_label=histogram.x_label, threshold=histogram.threshold)
    return Plot(title=title, svg=svg, caption=histogram.caption)


def is_validation(row: Mapping[str, float | str]) -> bool:
    """Whether a row of the curve was measured on held-out entities."""
    return any(name.startswith(("validation.", "routing.")) for name in row)


def quantities_of(row: Mapping[str, float | str]) -> dict[str, float]:
    """The numeric values of a row of the curve, without its step."""
    return {
        name: float(value)
        for name, value in row.items()
        if name != "step" and not isinstance(value, str)
    }


def _points(rows: Iterable[tuple[int, Mapping[str, float | str]]]) -> _Points:
    points: _Points = {}
    for step, row in rows:
        for name, value in quantities_of(row).items():
            points.setdefault(name, []).append((step, value))
    return points


def _series(label: str, points: Sequence[tuple[int, float]]) -> Line:
    ordered = sorted(points)
    return Line(label=label, x=[step for step, _ in ordered], y=[value for _, value in ordered])


def _step_plot(title: str, series: list[Line], caption: str, is_fraction: bool) -> Plot:
    svg = plot_by_step(series, title, is_fraction=is_fraction)
    return Plot(title=title, svg=svg, caption=caption)
