"""What all pages share: one HTML file that needs nothing else, no network and no script.

Prompts, targets and images are untrusted: text is escaped, images are encoded anew as thumbnails,
and the page's content security policy forbids the rest.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from infra.reports import formats
from infra.reports.metrics import METRIC_NOTES
from liveedit_core.errors import InputError
from liveedit_core.evaluation.false_activations import false_activations
from liveedit_core.evaluation.probes import FREE_GENERATION, TEACHER_FORCED
from liveedit_core.evaluation.scope import Scope
from liveedit_core.evaluation.summaries import (
    BY_CONSTRUCTION,
    EARNED_METRICS,
    Summary,
    paper_average,
)
from liveedit_core.inputs.images import decode_image
from liveedit_core.inputs.text import escaped
from liveedit_core.schema import PAPER_METRICS, ProbeKind
from liveedit_core.whole_files import write_whole

HEADLINE_METRICS: Sequence[tuple[ProbeKind, str]] = (
    (ProbeKind.RELIABILITY, TEACHER_FORCED),
    (ProbeKind.RELIABILITY, FREE_GENERATION),
    (ProbeKind.MODAL_GENERALITY, TEACHER_FORCED),
    (ProbeKind.MODAL_LOCALITY, TEACHER_FORCED),
)

_FORMATS = "count duration interval number p_value percent points spell".split()
"""Functions of `formats` that templates use as filters."""
_THUMBNAIL_PIXELS = 160


@dataclass(frozen=True, kw_only=True)
class Tile:
    label: str
    value: str
    note: str = ""
    is_alert: bool = False


AVERAGES = (
    ("average of five metrics", PAPER_METRICS, "one is by construction"),
    ("average without text locality", EARNED_METRICS, "four metrics"),
)
"""Label, metrics and note of the averages that pages show."""


def average_tiles(summary: Summary, note: str) -> list[Tile]:
    """The averages that can be had of what was measured."""
    return [
        Tile(label=label, value=formats.percent(average), note=f"{note}; {remark}")
        for label, kinds, remark in AVERAGES
        if (average := paper_average(summary, kinds)) is not None
    ]


def false_activation_tiles(summary: Summary, budget: float | None) -> list[Tile]:
    """Measured share and budget of false activations; none if no probe tells."""
    found = false_activations(summary, budget)
    if found is None:
        return []
    note = f"{found.sentence()}, 95 %: {formats.interval(found.interval)}"
    value = formats.percent(found.share)
    return [Tile(label="false activations", value=value, note=note, is_alert=found.is_exceeded)]


def render_page(template: str, **context: Any) -> str:
    """A page as HTML text; the template reads `data`, `tiles` and what it needs besides."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: escaped(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {name: getattr(formats, name) for name in _FORMATS}
    environment.filters["thumbnail"] = thumbnail_uri
    environment.globals |= {
        "fixed_metrics": BY_CONSTRUCTION,
        "metric_notes": METRIC_NOTES,
        "scopes": list(Scope),
    }
    return environment.get_template(template).render(context)


def write_page(path: Path, text: str) -> Path:
    """Write a page whole or not at all; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text)
    return path


@lru_cache(maxsize=1024)
def thumbnail_uri(image_bytes: bytes | None) -> str:
    """A small copy of an image as a data URI; empty if there is none or it cannot be decoded."""
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
