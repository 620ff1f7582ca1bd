"""The report of a run: one HTML file that needs nothing else, no network and no script.

Prompts, targets and images come from outside: texts are escaped by the template engine, images
are decoded and written anew as thumbnails, and a content policy in the page forbids the rest.
"""

import base64
import io
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from infra.reports.data import MetricRow, ReportData
from infra.reports.metrics import (
    MetricPlot,
    MetricTable,
    curve_plots,
    curve_tables,
    metric_plots,
    metric_tables,
    spell,
)
from liveedit_core.errors import InputError
from liveedit_core.inputs.images import decode_image
from liveedit_core.schema import PAPER_METRICS, ProbeKind

MAX_EXAMPLES = 60
MAX_WORST_CASES = 24
MAX_REJECTS = 200
MAX_PAIRS = 40

_THUMBNAIL_PIXELS = 160
_TEMPLATE = "report.html.j2"


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One headline number."""

    label: str
    value: str
    note: str = ""
    is_alert: bool = False


def write_report(path: Path, data: ReportData) -> None:
    """Write the report; a reader never sees half of one."""
    write_page(path, render_report(data))


def write_page(path: Path, text: str) -> None:
    """Write a page whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)


def page_environment() -> Environment:
    """Templates of this folder, with escaping and our filters."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "duration": format_duration,
        "number": format_number,
        "percent": format_percent,
        "spell": spell,
        "thumbnail": thumbnail_uri,
    }
    return environment


def render_report(data: ReportData) -> str:
    """The report as HTML text."""
    tables: list[MetricTable] = metric_tables(data.metrics)
    plots: list[MetricPlot] = metric_plots(data.metrics, seed=data.seed)
    return (
        page_environment()
        .get_template(_TEMPLATE)
        .render(
            data=data,
            tiles=headline_tiles(data),
            tables=tables,
            plots=plots,
            curve_tables=curve_tables(data.curve),
            curve_plots=curve_plots(data.curve, seed=data.seed),
            examples=data.examples[:MAX_EXAMPLES],
            worst_cases=data.worst_cases[:MAX_WORST_CASES],
            rejects=data.rejects[:MAX_REJECTS],
            reject_counts=Counter(reject.error_type for reject in data.rejects).most_common(),
            pairs=data.similar_pairs[:MAX_PAIRS],
            longest_stage_s=max((stage.duration_s for stage in data.stages), default=0.0),
        )
    )


def headline_tiles(data: ReportData) -> list[Tile]:
    """The numbers of the first screen; each states its protocol and sample count."""
    num_new = data.num_edits - data.num_edits_before
    held = f"{num_new:,} new, {data.num_edits_before:,} held already"
    tiles = [
        Tile(
            label="edits in the bank",
            value=f"{data.num_edits:,}",
            note=held if data.num_edits_before else "all taught in this run",
        )
    ]
    last = {
        protocol: _last_means(data.metrics, protocol)
        for protocol in ("teacher_forced", "free_generation")
    }
    for protocol, kind in (
        ("teacher_forced", ProbeKind.RELIABILITY),
        ("free_generation", ProbeKind.RELIABILITY),
        ("teacher_forced", ProbeKind.MODAL_GENERALITY),
        ("teacher_forced", ProbeKind.MODAL_LOCALITY),
    ):
        if row := last[protocol].get(kind):
            note = f"{spell(protocol)}, n = {row.num_samples:,} at {row.num_edits:,} edits"
            tiles.append(Tile(label=spell(kind), value=format_percent(row.mean), note=note))
    if average := _paper_average(last["teacher_forced"]):
        tiles.append(average)
    tiles.append(
        Tile(
            label="rejects",
            value=f"{data.num_rejects:,}",
            note="listed below, with reasons" if data.num_rejects else "nothing was refused",
            is_alert=data.num_rejects > 0,
        )
    )
    speed = f"{num_new / data.duration_s:.1f} new edits a second" if data.duration_s > 0 else ""
    tiles.append(Tile(label="wall time", value=format_duration(data.duration_s), note=speed))
    return tiles


def _last_means(metrics: Sequence[MetricRow], protocol: str) -> dict[str, MetricRow]:
    rows = [row for row in metrics if row.protocol == protocol]
    return {row.kind: row for row in sorted(rows, key=lambda row: row.num_edits)}


def _paper_average(last: Mapping[str, MetricRow]) -> Tile | None:
    rows = [last[kind] for kind in PAPER_METRICS if kind in last]
    if len(rows) < len(PAPER_METRICS) or len({row.num_edits for row in rows}) != 1:
        return None
    mean = sum(row.mean for row in rows) / len(rows)
    note = f"{spell('teacher_forced')}, {rows[0].num_edits:,} edits; one is by construction"
    return Tile(label="average of five metrics", value=format_percent(mean), note=note)


def format_percent(fraction: float | None) -> str:
    """0.974 -> "97.4 %"; a dash where there is no number."""
    return "-" if fraction is None else f"{100 * fraction:.1f} %"


def format_number(value: float | None, num_digits: int = 2) -> str:
    """1.2345 -> "1.23"; a dash where there is no number."""
    return "-" if value is None else f"{value:,.{num_digits}f}"


def format_duration(duration_s: float) -> str:
    """75.3 -> "1 min 15 s"."""
    if duration_s < 10:
        return f"{duration_s:.1f} s"
    minutes, seconds = divmod(round(duration_s), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


@lru_cache(maxsize=1024)
def thumbnail_uri(image_bytes: bytes | None) -> str:
    """A small copy of an image as a data URI; empty when there is none that can be shown."""
    if not image_bytes:
        return ""
    try:
        image = decode_image(image_bytes)
    except InputError:
        return ""
    image.thumbnail((_THUMBNAIL_PIXELS, _THUMBNAIL_PIXELS), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=85)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
