"""The page that compares editors over the number of edits, with its figures and tables as files."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from infra.reports.data import EditorsReportData, Measure
from infra.reports.exports import latex_table, to_csv
from infra.reports.figures import Bars, Panel, bar_figure, line_figure
from infra.reports.formats import interval, number, percent, spell
from infra.reports.measures import COSTS, GROUPS, MEASURES, TRANSFER
from infra.reports.metrics import PROTOCOL_NOTES
from infra.reports.page import Tile, render_page, write_page
from infra.reports.plots import Line, Plot, inline_svg, plot_name, svg_file
from liveedit_core.evaluation.probes import PROTOCOLS
from liveedit_core.whole_files import write_whole


@dataclass(frozen=True, kw_only=True)
class EditorTable:
    """The measures of a group under one protocol: a row for each editor at each N."""

    title: str
    names: Sequence[str]
    rows: Sequence[tuple[int, str, Sequence[Measure | None]]]


def render_editors_report(data: EditorsReportData) -> str:
    """The page as HTML text."""
    return render_page(
        "editors_report.html.j2",
        title=data.title,
        subtitle=data.subtitle,
        data=data,
        tiles=editor_tiles(data),
        sections=[
            (
                group,
                [
                    Plot(title=title, svg=inline_svg(figure, title), caption=_caption(data, names))
                    for title, names, figure in _figures(data, group)
                ],
                editor_tables(data, group),
            )
            for group in GROUPS
        ],
        costs=_cost_rows(data),
        measures=MEASURES,
        shown={item.name for item in data.measures},
        protocol_notes=PROTOCOL_NOTES,
        transfer=TRANSFER,
    )


def write_editors_report(folder: Path, name: str, data: EditorsReportData) -> list[Path]:
    """Write page, CSV, LaTeX tables and each figure; returns their paths."""
    files = [write_page(folder / f"{name}.html", render_editors_report(data))]
    tables = [
        latex_table(
            data,
            names,
            protocol,
            caption=f"{group}, {spell(protocol)}: % with 95 % intervals after N edits.",
            label=f"tab:{plot_name(f'{group} {spell(protocol)}')}",
        )
        for group, names in GROUPS.items()
        for protocol in PROTOCOLS
    ]
    texts = {
        f"{name}.csv": to_csv(data.measures),
        f"{name}.tex": "\n".join(["% needs \\usepackage{booktabs}", *filter(None, tables)]),
    }
    for group in GROUPS:
        for title, _, figure in _figures(data, group):
            texts[f"{name}-{plot_name(title)}.svg"] = svg_file(figure, title)
    for file, text in texts.items():
        write_whole(folder / file, text)
        files.append(folder / file)
    return files


def editor_tiles(data: EditorsReportData) -> list[Tile]:
    """The numbers of the first screen, at the largest number of edits."""
    tiles = [Tile(label="editors", value=str(len(data.editors)), note=", ".join(data.editors))]
    if not data.sizes:
        return tiles
    last = data.sizes[-1]
    for name, choose in (
        ("average", max),
        ("average_without_text_locality", max),
        (TRANSFER, max),
        ("unrelated.changed", min),
    ):
        if best := _best(data, name, last, choose):
            bounds = f", 95 %: {interval(best.interval)}" if best.interval else ""
            tiles.append(
                Tile(
                    label=f"{'lowest' if choose is min else 'highest'} {MEASURES[name].title}",
                    value=percent(best.value),
                    note=f"{best.editor} after {last:,} edits, {spell(best.protocol)}{bounds}",
                )
            )
    return tiles


def _best(
    data: EditorsReportData, name: str, size: int, choose: Callable[..., Measure]
) -> Measure | None:
    """Among all editors but the reference, under the first protocol that has the measure."""
    for protocol in PROTOCOLS:
        items = [
            item
            for item in data.measures
            if (item.name, item.num_edits, item.protocol) == (name, size, protocol)
            and item.editor != data.reference
        ]
        if items:
            return choose(items, key=lambda item: item.value)
    return None


def editor_tables(data: EditorsReportData, group: str) -> list[EditorTable]:
    """One for each protocol under which any measure of a group was taken."""
    tables = []
    for protocol in PROTOCOLS:
        found = {
            (item.num_edits, item.editor, item.name): item
            for item in data.measures
            if item.protocol == protocol
        }
        names = [name for name in GROUPS[group] if any(key[2] == name for key in found)]
        rows = [
            (size, editor, [found.get((size, editor, name)) for name in names])
            for size in data.sizes
            for editor in data.editors
        ]
        if names:
            rows = [row for row in rows if any(row[2])]
            tables.append(EditorTable(title=spell(protocol), names=names, rows=rows))
    return tables


def _figures(data: EditorsReportData, group: str) -> list[tuple[str, tuple[str, ...], Figure]]:
    """Title, measures and figure for each protocol."""
    figures = []
    for table in editor_tables(data, group):
        names = tuple(table.names)
        if group == "Scope":
            figure = bar_figure(
                [_bars(table, size) for size in dict.fromkeys(r[0] for r in table.rows)]
            )
        else:
            figure = line_figure([_panel(data, table, column) for column in range(len(names))])
        figures.append((f"{group}, {table.title}", names, figure))
    return figures


def _panel(data: EditorsReportData, table: EditorTable, column: int) -> Panel:
    lines = []
    for editor in data.editors:
        items = [
            item for _, name, cells in table.rows if name == editor and (item := cells[column])
        ]
        if items:
            intervals = [item.interval for item in items if item.interval]
            lines.append(
                Line(
                    label=editor,
                    x=[item.num_edits for item in items],
                    y=[item.value for item in items],
                    is_dashed=editor == data.reference,
                    intervals=intervals if len(intervals) == len(items) else (),
                )
            )
    name = table.names[column]
    return Panel(title=MEASURES[name].title, lines=lines, is_difference=name == TRANSFER)


def _bars(table: EditorTable, size: int) -> Bars:
    rows = [(editor, cells) for count, editor, cells in table.rows if count == size]
    return Bars(
        title=f"{size:,} {'edit' if size == 1 else 'edits'}",
        labels=[editor for editor, _ in rows],
        parts=[
            (MEASURES[name].title, [item.value for _, cells in rows if (item := cells[column])])
            for column, name in enumerate(table.names)
        ],
    )


def _caption(data: EditorsReportData, names: Sequence[str]) -> str:
    counts = {
        size: [m.num_samples for m in data.measures if m.num_edits == size and m.name in names]
        for size in data.sizes
    }
    probes = "; ".join(
        f"N = {size:,}: {min(found):,} to {max(found):,}" for size, found in counts.items() if found
    )
    return f"Bars: 95 % intervals over entities. Probes of a point: {probes}. Seed {data.seed}."


def _cost_rows(data: EditorsReportData) -> list[tuple[int, str, str, str, str, str]]:
    """Number of edits, editor, seconds of an edit, of a cold one, fixed and stored megabytes."""
    found = {
        (item.num_edits, item.editor, item.name): item.value
        for item in data.measures
        if item.name in COSTS
    }
    rows = []
    for size in data.sizes:
        for editor in data.editors:
            seconds = [found.get((size, editor, name)) for name in COSTS[:2]]
            sizes = [found.get((size, editor, name)) for name in COSTS[2:]]
            texts = [number(value, 3) for value in seconds]
            texts += [number(None if value is None else value / 1e6, 1) for value in sizes]
            if any(text != "-" for text in texts):
                rows.append((size, editor, texts[0], texts[1], texts[2], texts[3]))
    return rows
