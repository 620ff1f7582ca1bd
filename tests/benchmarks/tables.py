#!/usr/bin/env python
"""Writes the tables of speed, README.md's and that of this folder, from the results beside it.

python -m tests.benchmarks.tables
"""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.final.tables import with_block

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]


class Claim(NamedTuple):
    """What a script measures."""

    what: str
    measured: str = ""
    """Of the fields of its result; "" where there is none."""
    for_users: str = ""
    """The same in README.md; "" where it is not there."""


AGAINST_OLDER = {
    "cold_edit": (
        "an edit of an image that was never seen, without refining",
        "{float32[times_faster]:.2f} times as fast in float32, {bfloat16[times_faster]:.2f} in "
        "bfloat16; with refining {default[times_faster]:.2f} and "
        "{bfloat16_default[times_faster]:.2f}",
    ),
    "scan": (
        "one question routed over all of a bank of 100 000 edits",
        "{100_000[times_faster]:.1f} times as fast",
    ),
    "rescoring": (
        "a case that the same process scored before, scored against a bank that lacks another "
        "tenth of the edits",
        "{float32[times_faster]:.2f} times as fast, {default[times_faster]:.2f} with a bank of "
        "refined edits",
    ),
    "free_generation": (
        "free answers of an evaluation",
        "{float32[times_faster]:.2f} times as fast, {float32[identical_texts]:.1%} of texts "
        "identical; {bfloat16[times_faster]:.2f} in bfloat16, {bfloat16[identical_texts]:.1%}",
    ),
    "lifelong": (
        "the editing job from nothing, each case edited and evaluated once",
        "{float32[times_faster]:.2f} times as fast, {default[times_faster]:.2f} with refining",
    ),
    "teaching": (
        "the editing job, each request taught",
        "{float32[times_faster]:.2f} times as fast, {default[times_faster]:.2f} with refining",
    ),
}
"""Parts of `before.py`, and what is said of their rows."""
CLAIMS = {
    "training_steps": Claim(
        "a training step on cached hidden states, against item by item without a cache",
        "{times_faster[cached]:.0f} times as fast, losses equal to {largest_difference:.0e}",
        "{times_faster[cached]:.0f} times as fast",
    ),
    "replay": Claim(
        "evaluating a new bank version on {num_edits} cases from cached hidden states, against "
        "item by item without a cache",
        "{times_faster[two actors]:.0f} times as fast; two actors "
        "{two_actors_times_faster_than_one:.1f} times as fast as one; "
        "{num_scores_that_differ} scores differ",
        "{times_faster[two actors]:.0f} times as fast; two actors "
        "{two_actors_times_faster_than_one:.1f} times as fast as one",
    ),
    **{
        f"generation_overhead {name}": Claim(
            f"overhead of routing over 1 000 experts for {what}, against transformers alone",
            *("{overhead:+.1%} in {rounds} rounds",) * 2,
        )
        for name, what in {
            "20 tokens, batch 1": "an answer of 20 tokens",
            "4 tokens, batch 8": "8 answers of 4 tokens at a time",
        }.items()
    },
    **{
        f"before {name}": Claim(f"{what}, against an older commit", *(f"{said} ({{before}})",) * 2)
        for name, (what, said) in AGAINST_OLDER.items()
    },
    "large_banks": Claim(
        "an edit of the library (`EditedModel.edit`) in a bank of {sizes[1]} edits, against one in "
        "a bank of {sizes[0]}; one question routed over the shortlist of {sizes[2]}, against all",
        "{large_over_small[edit]:.2f} times the time, {peak_growth_over_bank:.1%} of the bank's "
        "memory; {routing[ratio]:.0f} times as fast",
        "{large_over_small[edit]:.2f} times the time; 9 edits add {peak_growth_over_bank:.1%} of "
        "the bank's memory; {routing[ratio]:.0f} times as fast",
    ),
    "key_index": Claim(
        "one question routed by the index of {rows[3][size]} edits with keys of images (of sparse "
        "keys), against the scan in int8",
        "{rows[3][index][cpu_ms]:.1f} ms ({rows[5][index][cpu_ms]:.1f}), {rows[3][ratio]:.0f} "
        "({rows[5][ratio]:.0f}) times as fast; {rows[3][missed]} of {rows[3][kept]} "
        "({rows[5][missed]} of {rows[5][kept]}) edits missed, {rows[3][added]} "
        "({rows[5][added]}) added",
        "{rows[3][ratio]:.0f} ({rows[5][ratio]:.0f}) times as fast; {rows[5][missed]} of "
        "{rows[5][kept]} edits missed, {rows[5][added]} added, with sparse keys",
    ),
    "bank_growth": Claim(
        "committing {window_edits} edits to a bank of {num_edits}, against committing to an empty "
        "bank",
        "{append_ratio:.2f} times the time; opening takes {open_s:.1f} s and {memory_ratio:.1f} "
        "times the memory of the keys",
        "{append_ratio:.2f} times the time; opening the bank takes {open_s:.1f} s",
    ),
    "driver_load": Claim(
        "CPU of the driver for an edit that workers pass by reference, and of its commit, against "
        "relaying all of it; two actors against one",
        "{cpu_ratio_with_commits:.1f} times less; {two_actors[ratio]:.1f} times as fast",
    ),
    "ray_data": Claim(
        "{edits_a_turn} edits through both stages on our pools, whose actors are up, against Ray "
        "Data, whose executions start theirs; stub models",
        "{pools[0][seconds]:.0f} s against {ray_data[0][seconds]:.0f}, of which "
        "{ray_data[0][first_row_s]:.0f} to the first row; CPU of the driver "
        "{pools[0][driver_cpu_s]:.2f} s against {ray_data[0][driver_cpu_s]:.1f}",
    ),
    "generator_scaling": Claim(
        "the stages of the editing job with two generator actors against one, each with as many "
        "cores, built-in models, encoding included",
        "{ratio:.2f} times the edits a second",
    ),
    "scale_model": Claim(
        "what one more edit costs the largest store measured, against the smallest",
        "objects {last_against_first[objects_written]:.2f} times, versions "
        "{last_against_first[versions]:.2f}, reads {last_against_first[reads]:.2f}, bytes written "
        "{last_against_first[bytes_written]:.2f}, bytes read {last_against_first[bytes_read]:.2f}",
    ),
    "serving_load": Claim(
        "the server: eight clients against one, HTTP against the library, {promotions[moves]} "
        "moves of the champion under load",
        "{throughput[ratio]:.1f} times the tokens a second; {overhead[ratio]:.2f} times the time; "
        "{promotions[errors]} errors in {promotions[answered]} answers",
    ),
    "quickstart": Claim(
        "the quickstart as users start it, against commit {before[commit]}; memory of all its "
        "processes",
        "first edit after {first_edit_s:.0f} s ({times_faster[first_edit_cpu_s]:.2f} times as fast "
        "in CPU seconds), report after {whole_s:.0f} s ({times_faster[whole_cpu_s]:.2f} times); "
        "{peak_pss_gb:.1f} GB ({before[peak_pss_gb]:.1f})",
        "{times_faster[whole_cpu_s]:.2f} times as fast in CPU seconds",
    ),
    "trained_editors": Claim(
        "editors with a trained part beside ours, over several orders of the same cases; table in "
        "`liveedit_core/baselines/trained/README.md`"
    ),
    "ablations": Claim(
        "each part of routing, switched off alone, on `development`; table in "
        "`liveedit_core/METHOD.md`; whether a second answer in other words wins "
        "(`--corrections`, `corrections.json`); what refining costs by length of the target "
        "(`--refining`, `refining.json`)"
    ),
    "filter_by_domain": Claim(
        "false activations beside the budget and changed copies found, in banks of one domain"
    ),
    "textual_edits": Claim(
        "text_locality beside textual edits, their other wordings, steps of refining from two "
        "starts; results in `liveedit_core/METHOD.md`"
    ),
    "gpu_check": Claim(
        "`make check-gpu`: parity of a CUDA GPU with the CPU, whole jobs on it, two shards on "
        "NCCL, throughput and memory by stage. **Not run yet**: no machine with a GPU was at hand; "
        "`--device cpu` was, to try the script"
    ),
}


def of_developers(results: Mapping[str, Any]) -> str:
    """Every script."""
    rows = ["| script | what | measured |", "|---|---|---|"]
    for name, claim in CLAIMS.items():
        found = results.get(name, {})
        cells = [part.format_map(found) for part in claim[:2]] if found else [claim.what, ""]
        script, _, part = name.partition(" ")
        rows.append(f"| `{script}.py`{part and f', {part}'} | {cells[0]} | {cells[1]} |")
    return "\n".join(rows)


def of_users(results: Mapping[str, Any]) -> str:
    rows = ["| what | ratio |", "|---|---|"]
    for name, claim in CLAIMS.items():
        if claim.for_users and name in results:
            texts = claim.what, claim.for_users
            what, ratio = (text.format_map(results[name]) for text in texts)
            rows.append(f"| {what} | {ratio} |")
    return "\n".join(rows)


TABLES: dict[Path, Callable[[Mapping[str, Any]], str]] = {
    ROOT / "README.md": of_users,
    FOLDER / "README.md": of_developers,
}


def written() -> dict[Path, str]:
    """The files with their tables."""
    results = {name: found for name in CLAIMS if (found := _result_of(*name.partition(" ")[::2]))}
    return {
        path: with_block(path.read_text(encoding="utf-8"), "speed", table(results))
        for path, table in TABLES.items()
    }


def _result_of(script: str, part: str) -> dict[str, Any]:
    """Of a script, or of a part of it beside what all parts share; {} where there is none."""
    file = FOLDER / f"{script}.json"
    content = _readable(json.loads(file.read_text())) if file.exists() else {}
    if part and part not in content.get("claims", {}):
        return {}
    return {**content, **content["claims"][part]} if part else content


def _readable(value: Any) -> Any:
    """Whole numbers as texts, a space between thousands."""
    if isinstance(value, dict):
        return {name: _readable(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_readable(item) for item in value]
    return f"{value:,}".replace(",", " ") if type(value) is int else value


def main() -> int:
    for path, text in written().items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
