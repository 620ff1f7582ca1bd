"""Markdown tables of README and data card, made from the JSON of the final numbers alone."""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from liveedit_core.errors import ConfigError
from liveedit_core.evaluation.probes import FREE_GENERATION, TEACHER_FORCED
from liveedit_core.schema import ProbeKind
from pipelines.baselines.tables import spread_text
from pipelines.final.recipe import RESULTS

NUMBERS = RESULTS / "final_numbers.json"
"""Numbers of the committed generator."""
ROOT = Path(__file__).parents[2]
_ACCURACY = ("reliability", "text_generality", "modal_generality", "correction", "portability")
_LOCALITY = ("modal_locality", "image_swap_locality", "prompt_swap_locality", "text_locality")
_NOTES = {
    "text_locality": " (by construction)",
    "portability": " (structurally the unedited answer where no expert is kept)",
}
Row = Mapping[str, Any]
_FIVE = ("reliability", "text_generality", "modal_generality", "text_locality", "modal_locality")


def read_numbers() -> dict[str, Any]:
    """The committed numbers."""
    tree: dict[str, Any] = json.loads(NUMBERS.read_text(encoding="utf-8"))
    return tree


def write_tables() -> None:
    """Write every block of tables between its markers, from the committed numbers."""
    numbers = read_numbers()
    for path, blocks in BLOCKS.items():
        file = ROOT / path
        text = file.read_text(encoding="utf-8")
        for name, block in blocks.items():
            text = with_block(text, name, block(numbers))
        file.write_text(text, encoding="utf-8")


def with_block(text: str, name: str, content: str) -> str:
    """The text with new content between `<!-- name -->` and `<!-- /name -->`."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not pattern.search(text):
        raise ConfigError(f"no place <!-- {name} --> ... <!-- /{name} --> for the tables")
    return pattern.sub(lambda match: f"{match[1]}{content.strip()}\n{match[2]}", text)


def print_tables(numbers: Mapping[str, Any], console: Console) -> None:
    """Print what README and data card show."""
    for text in (overview(numbers), strata(numbers)):
        console.print(text, highlight=False, markup=False, soft_wrap=True)


def overview(numbers: Mapping[str, Any]) -> str:
    """What was measured on what, the curve under both protocols, false activations, editors."""
    about, counts = numbers["about"], numbers["counts"]
    domains = ", ".join(f"{name} {n}" for name, n in sorted(counts["domain"].items()))
    parts = [
        f"Split `{about['split']}` of EmblemEdit and the user's world, {counts['cases']:,} cases "
        f"of {counts['entities']:,} entities ({domains}); generator `{about['generator'][:12]}`, "
        f"seed {about['settings']['seed']}, {about['date']}, commit `{about['commit'][:7]}`. "
        "Mean in % [95 % interval] n.",
        "**Free generation, exact match**",
        curve_table(numbers["curve"], FREE_GENERATION),
        "**Teacher-forced, share of target tokens**",
        curve_table(numbers["curve"], TEACHER_FORCED),
        "**False activations**: share of questions about images that were never edited for which "
        "an expert is kept / whose answer changes [95 % interval] (teacher-forced tokens)",
        false_activation_table(numbers["curve"]),
    ]
    if numbers["editors"]:
        rows = numbers["editors"]["rows"]
        groups = {row["num_edits"]: row["num_groups"] for row in rows}
        parts += [
            "**Other editors on the same cases**, groups of N: "
            + ", ".join(f"{n} of {size:,}" for size, n in sorted(groups.items())),
            editor_table(numbers["editors"]),
        ]
    return "\n\n".join(parts)


def strata(numbers: Mapping[str, Any]) -> str:
    """Free answers by domain, length and content of the target and by variant, scope classes and
    retention, with all cases in one bank; of the families of questions, what their edits leave
    alone (the JSON has all metrics)."""
    whole = whole_bank(numbers)
    parts = []
    for tag, title in (
        ("domain", "By domain"),
        ("length", "By tokens of the target"),
        ("content", "By content of the target"),
    ):
        parts += [f"**{title}**", strata_table(whole["tags"].get(tag, []))]
    parts += ["**Other questions about an edited image (prompt_swap_locality), by family**"]
    parts += [family_table(whole["tags"].get("family", []))]
    parts += ["**By variant of the probes**", variant_table(whole["metrics"])]
    parts += ["**Scope of the edits**", scope_table(numbers["curve"])]
    parts += ["**Retention of reliability**", retention_table(numbers["curve"])]
    if numbers["editors"]:
        for protocol, title in ((FREE_GENERATION, "free"), (TEACHER_FORCED, "teacher-forced")):
            table = editor_details(numbers["editors"], protocol)
            parts += [f"**Other editors, {title}**", table]
        if numbers["editors"]["seeds"]:
            parts += ["**Mean (range) over training seeds**", seed_table(numbers["editors"])]
    return "\n\n".join(parts)


def whole_bank(numbers: Mapping[str, Any]) -> Mapping[str, Any]:
    """The point of the curve with all cases in one bank: the last with scope classes."""
    point: Mapping[str, Any] = [item for item in numbers["curve"] if item["scope"]][-1]
    return point


def curve_table(points: Sequence[Row], protocol: str) -> str:
    """Metrics by number of edits."""
    points = [point for point in points if any(r["protocol"] == protocol for r in point["metrics"])]
    heads = ["metric", *(f"N = {point['num_edits']:,}" for point in points)]
    rows = [
        [name + _NOTES.get(name, ""), *(cell(found(p["metrics"], name, protocol)) for p in points)]
        for name in (*_ACCURACY, *_LOCALITY)
    ]
    for title, names in (
        ("average of the paper's five", _FIVE),
        ("the same without text_locality", _FIVE[:3] + _FIVE[4:]),
    ):
        rows.append([title, *(average(p["metrics"], names, protocol) for p in points)])
    return markdown(heads, rows)


def average(rows: Sequence[Row], names: Iterable[str], protocol: str) -> str:
    """Mean of some metrics in %; empty unless all were measured."""
    items = [found(rows, name, protocol) for name in names]
    if any(item is None for item in items):
        return ""
    means = [item["mean"] for item in items if item is not None]
    return f"{100 * sum(means) / len(means):.1f}"


def false_activation_table(points: Sequence[Row]) -> str:
    """Kept and changed shares by bank size and kind of stranger."""
    name = ProbeKind.IMAGE_SWAP_LOCALITY.value
    variants = sorted({r["variant"] for p in points for r in p["metrics"] if r["metric"] == name})
    heads = ["strangers", *(f"N = {point['num_edits']:,}" for point in points)]
    rows = []
    for variant in variants:
        items = [found(p["metrics"], name, TEACHER_FORCED, variant) for p in points]
        rows.append([variant or "all", *(activation_cell(item) for item in items)])
    return markdown(heads, rows)


def activation_cell(item: Row | None) -> str:
    """ "4.1 / 2.0 [1-4] n=300": share with an expert kept, and with another answer."""
    if item is None:
        return ""
    names = {"mean": "exact", "low": "exact_high", "high": "exact_low"}
    changed = {name: 1 - item[same] for name, same in names.items()} | {"n": item["n"]}
    return f"{100 * item['kept']:.1f} / {cell(changed)}"


def strata_table(rows: Sequence[Row]) -> str:
    """A row for each stratum: free answers, and reliability teacher-forced."""
    names = ("reliability", "text_generality", "modal_generality", *_LOCALITY[1:3])
    by_value: dict[str, list[Row]] = {}
    for row in rows:
        by_value.setdefault(row["value"], []).append({**row, "variant": ""})
    return markdown(
        ["stratum", "reliability, teacher-forced", *(f"{name}, free" for name in names)],
        [
            [
                value,
                cell(found(by_value[value], names[0], TEACHER_FORCED)),
                *(cell(found(by_value[value], name, FREE_GENERATION)) for name in names),
            ]
            for value in sorted(by_value, key=_in_order)
        ],
    )


def family_table(rows: Sequence[Row]) -> str:
    """prompt_swap_locality of the edits of each family under both protocols."""
    name = ProbeKind.PROMPT_SWAP_LOCALITY.value
    by_value: dict[str, list[Row]] = {}
    for row in rows:
        by_value.setdefault(row["value"], []).append({**row, "variant": ""})
    return markdown(
        ["family of the edit", "free", "teacher-forced"],
        [
            [value, *(cell(found(items, name, p)) for p in (FREE_GENERATION, TEACHER_FORCED))]
            for value, items in sorted(by_value.items())
        ],
    )


def _in_order(value: str) -> tuple[int, str]:
    """Ranges of numbers by their beginning, other texts by the alphabet."""
    start = value.partition("-")[0]
    return (int(start) if start.isdecimal() else 0, value)


def variant_table(rows: Sequence[Row]) -> str:
    """Every variant of every metric under both protocols."""
    return markdown(
        ["metric", "variant", "free", "teacher-forced", "own expert kept, %"],
        [
            [
                row["metric"],
                row["variant"],
                cell(row),
                cell(found(rows, row["metric"], TEACHER_FORCED, row["variant"])),
                f"{100 * row['own_kept']:.0f}",
            ]
            for row in rows
            if row["variant"] and row["protocol"] == FREE_GENERATION
        ],
    )


def scope_table(points: Sequence[Row]) -> str:
    """Share of the edits of each scope class, free generation."""
    points = [point for point in points if point["scope"]]
    shares = {
        (point["num_edits"], row["class"]): row
        for point in points
        for row in point["scope"]
        if row["protocol"] == FREE_GENERATION
    }
    sizes = [point["num_edits"] for point in points]
    names = dict.fromkeys(name for _, name in shares)
    return markdown(
        ["class", *(f"N = {size:,}" for size in sizes)],
        [[name, *(cell(shares.get((size, name)), "share") for size in sizes)] for name in names],
    )


def retention_table(points: Sequence[Row]) -> str:
    """Reliability of each edit right after it was taught and after all N, with the difference."""
    return markdown(
        ["N", "protocol", "right after", "after N", "difference"],
        [
            [
                f"{point['num_edits']:,}",
                row["protocol"].replace("_", " "),
                f"{100 * row['right_after']:.1f}",
                f"{100 * row['after_all']:.1f}",
                cell(row, "difference"),
            ]
            for point in points
            for row in point.get("retention", [])
        ],
    )


def editor_table(editors: Mapping[str, Any]) -> str:
    """Averages of each editor by number of edits, free answers, time and memory at the largest."""
    rows = editors["rows"]
    sizes = sorted({row["num_edits"] for row in rows})
    last = sizes[-1]
    by_size = {(row["editor"], row["num_edits"]): row for row in rows}
    heads = ["editor", *(f"average, N = {size:,}" for size in sizes)]
    heads += [f"without text_locality, N = {last:,}"]
    heads += ["reliability, free", "text_generality, free", "modal_generality, free"]
    heads += ["seconds of a cold edit", "kept beside the model", "trained before"]
    table = []
    for name in dict.fromkeys(row["editor"] for row in rows):
        row = by_size[name, last]
        metrics = editor_metrics(row)
        table.append(
            [
                name,
                *(percent_of(by_size[name, size]["paper_average"]) for size in sizes),
                percent_of(row["paper_average_without_text_locality"]),
                *(cell(found(metrics, kind, FREE_GENERATION)) for kind in _FIVE[:3]),
                f"{row['cold_edit_s']:.2f}",
                f"{row['fixed_bytes'] / 1e6:.1f} MB + {row['stored_bytes'] / 1e6:.1f} MB",
                row["trained_on"] + training_cost(row),
            ]
        )
    return markdown(heads, table)


def training_cost(row: Row) -> str:
    """What training before the first edit took; "" where nothing was trained, or recorded."""
    parts = []
    if parameters := row.get("num_trained"):
        parts.append(f"{parameters / 1e6:.1f} M parameters")
    if (seconds := row.get("train_s")) is not None:
        parts.append(f"{seconds:,.0f} s")
    return f" ({', '.join(parts)})" if parts else ""


def editor_details(editors: Mapping[str, Any], protocol: str) -> str:
    """All metrics of each editor at the largest number of edits, and variants of portability."""
    last = max(row["num_edits"] for row in editors["rows"])
    rows = [row for row in editors["rows"] if row["num_edits"] == last]
    metrics = [editor_metrics(row) for row in rows]
    kinds = [(name, "") for name in (*_ACCURACY, *_LOCALITY)]
    portability = ProbeKind.PORTABILITY.value
    kinds += sorted(
        {(item["metric"], item["variant"]) for items in metrics for item in items}
        & {(portability, item["variant"]) for items in metrics for item in items if item["variant"]}
    )
    return markdown(
        [f"metric, N = {last:,}", *(row["editor"] for row in rows)],
        [
            [
                f"{name}: {variant}" if variant else name + _NOTES.get(name, ""),
                *(cell(found(items, name, protocol, variant)) for items in metrics),
            ]
            for name, variant in kinds
        ],
    )


def seed_table(editors: Mapping[str, Any]) -> str:
    """Each metric of the configurations with several training seeds."""
    seeds = editors["seeds"]
    heads = ["metric", *(f"{one['configuration']}, N = {one['num_edits']:,}" for one in seeds)]
    names = dict.fromkeys(name for one in seeds for name in one if isinstance(one[name], list))
    return markdown(
        heads,
        [
            [name, *(spread_text(one[name]) if name in one else "" for one in seeds)]
            for name in names
        ],
    )


def editor_metrics(row: Row) -> list[Row]:
    """Metrics and variants of an editor, as `found` and `cell` read them."""
    return [
        {"variant": "", **item, "low": item["interval"][0], "high": item["interval"][1]}
        | {"n": item["num_samples"]}
        for item in (*row["metrics"], *row["variants"])
    ]


def percent_of(averages: Row) -> str:
    """Teacher-forced average in %; empty unless all its metrics were measured."""
    value = averages[TEACHER_FORCED]
    return "" if value is None else f"{100 * value:.1f}"


def found(rows: Iterable[Row], metric: str, protocol: str, variant: str = "") -> Row | None:
    """The row of a metric."""
    key = (metric, variant, protocol)
    return next((r for r in rows if (r["metric"], r["variant"], r["protocol"]) == key), None)


def cell(item: Row | None, value: str = "mean") -> str:
    """ "68.6 [60-77] n=100"."""
    if item is None:
        return ""
    low, high = (round(100 * item[end]) for end in ("low", "high"))
    # Adding zero makes a rounded -0.0 positive.
    return f"{round(100 * item[value], 1) + 0:.1f} [{low}-{high}] n={item['n']:,}"


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; rows without any value are left out."""
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(row) + " |" for row in rows if any(row[1:])]
    return "\n".join(lines)


BLOCKS: Mapping[str, Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    "README.md": {"final-numbers": overview},
    "liveedit_core/builtin/README.md": {"final-strata": strata},
}
"""By file and marker, what is written there."""
