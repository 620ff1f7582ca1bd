"""The page of comparisons, from the JSON files that they left: no model is loaded."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from infra.reports.data import EditorsReportData, Measure
from infra.reports.editors import write_editors_report
from infra.reports.measures import COSTS
from liveedit_core.errors import ConfigError, InputError
from liveedit_core.evaluation.statistics import Interval
from liveedit_core.inputs.given_files import read_given_text

Tree = Mapping[str, Any]
_MAX_BYTES = 256 << 20


def write_page_of(files: Sequence[Path], folder: Path) -> list[Path]:
    """Write the page of some comparisons, with its figures and tables, into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    return write_editors_report(folder, "comparison", page_data([read_tree(f) for f in files]))


def read_tree(file: Path) -> Tree:
    """A comparison as `compare_editors.py` or `final_numbers.py` wrote it."""
    try:
        tree: dict[str, Any] = json.loads(read_given_text(file, _MAX_BYTES))
        tree = tree.get("editors", tree)
        tree["rows"], tree["cases"]
    except (InputError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(
            f"{file}: expected a comparison.json of compare_editors.py, or numbers of "
            f"final_numbers.py, found {error!r}"
        ) from error
    return tree


def page_data(trees: Sequence[Tree]) -> EditorsReportData:
    """All rows of some comparisons; each editor is in one of them, and all were measured alike."""
    rows = [row for tree in trees for row in tree["rows"]]
    _check(rows)
    first = trees[0]
    sizes = sorted({row["num_edits"] for row in rows})
    groups = {row["num_edits"]: row["comparable_group"] for row in rows}
    warnings = []
    if not any(row.get("measures") for row in rows):
        warnings.append(
            "These comparisons were stored before retention, scope, unrelated questions and "
            "intervals of averages were."
        )
    return EditorsReportData(
        title=f"Editors after {', '.join(f'{size:,}' for size in sizes)} edits",
        subtitle=str(first["cases"]),
        seed=first["seed"],
        measures=[measure for row in rows for measure in _measures(row)],
        trained_on={row["editor"]: row["trained_on"] for row in rows},
        num_trials={row["editor"]: row["num_trials"] for row in rows},
        warnings=warnings,
        facts={f"measured, N = {size:,}": groups[size] for size in sizes}
        | {name: digest for tree in trees for name, digest in tree["digests"].items()},
    )


def _check(rows: Sequence[Tree]) -> None:
    """Raise ConfigError for an editor that is there twice, or rows of different measurements."""
    seen: set[tuple[str, int]] = set()
    groups: dict[int, str] = {}
    for row in rows:
        key = row["editor"], row["num_edits"]
        if key in seen:
            raise ConfigError(f"editor {key[0]} at {key[1]} edits is in more than one comparison")
        seen.add(key)
        expected = groups.setdefault(row["num_edits"], row["comparable_group"])
        if row["comparable_group"] != expected:
            raise ConfigError(
                f"editor {key[0]} at {key[1]} edits was measured differently and cannot stand "
                f"beside the others: {row['comparable_group']}; the others: {expected}"
            )


def _measures(row: Tree) -> Iterator[Measure]:
    """Everything that a row holds."""
    found = [{**item, "measure": item["metric"], "value": item["mean"]} for item in row["metrics"]]
    found += row.get("measures", [])
    known = {item["measure"] for item in found}
    for name in ("average", "average_without_text_locality"):
        averages = row[name.replace("average", "paper_average")]
        if name not in known:  # stored before averages had intervals
            found += [
                {"measure": name, "protocol": protocol, "value": value}
                for protocol, value in averages.items()
                if value is not None
            ]
    found += [{"measure": name, "protocol": "", "value": row[name]} for name in COSTS]
    for item in found:
        bounds = item.get("interval")
        yield Measure(
            editor=row["editor"],
            num_edits=row["num_edits"],
            name=item["measure"],
            protocol=item["protocol"],
            value=item["value"],
            interval=Interval(*bounds) if bounds else None,
            num_samples=item.get("num_samples", 0),
        )
