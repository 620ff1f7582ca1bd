#!/usr/bin/env python
"""How well the hard filter keeps to its budget, and to changed copies, in banks of one domain.

    python -m tests.benchmarks.filter_by_domain [--split validation] [--output FILE.json]

Banks of 10, 100 and 1 000 edits: cases of the split in another order each time, then other edits of
the domain that fill the bank up. Asked are the probes of the bank's own cases that are about
images. Only routing runs: a changed copy is found when its own edit has more than half of the
weight. The budget is that of the recipe, the offset what the bank's calibration makes of it.
Intervals are exact, over the entities of all banks of a row.

`--split test` looks at the sealed test split, which is recorded.
"""

import random
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from liveedit_core.backbones.load_options import LoadOptions
from liveedit_core.builtin.backbone import BUILTIN, builtin_generator_folder, load_named_backbone
from liveedit_core.builtin.benchmark import load_builtin_cases
from liveedit_core.evaluation.probes import probe_input
from liveedit_core.evaluation.statistics import exact_interval
from liveedit_core.method.editor import Editor, edit_input
from liveedit_core.method.generator import load_generator
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.schema import Case, EditRequest, Probe, ProbeKind
from liveedit_core.state_source import StateSource
from liveedit_core.states import LayerStates
from pipelines.final.tables import markdown
from pipelines.job.cases import load_builtin
from pipelines.job.sections import BenchmarkSection, StatesSection
from pipelines.job.state_cache import state_source
from tests.benchmarks.frame import machine, parser_of, publish

SIZES = (10, 100, 1000)
NUM_BANKS = {10: 30}
"""Orders, by size; 3 of each other size."""
EMBLEMS = ("icon", "flag", "logo", "emoji")
ASKED = (ProbeKind.RELIABILITY, ProbeKind.MODAL_GENERALITY, ProbeKind.IMAGE_SWAP_LOCALITY)
OTHER_DRAWING = f"{ProbeKind.MODAL_GENERALITY}, other drawing"
_BATCH = 32
Shares = dict[str, list[tuple[str, bool]]]
"""By kind of probe: entity, and whether it was found (a changed copy) or kept an edit (a
stranger)."""


def domain_of(case: Case) -> str:
    domain = case.tags["domain"]
    return "emblem" if domain in EMBLEMS else domain


class Domain:
    """Cases and further edits of one domain, with all that routing needs of them."""

    def __init__(
        self, editor: Editor, source: StateSource, cases: Sequence[Case], others: Sequence[Case]
    ) -> None:
        self.editor = editor
        self.cases = cases
        self.others = [case.edit for case in others]
        self.probes = {
            case.case_id: [probe for probe in case.all_probes() if probe.kind in ASKED]
            for case in cases
        }
        probes = [probe for own in self.probes.values() for probe in own]
        found = states_of(source, [replace(probe_input(probe), target="") for probe in probes])
        self.states = dict(zip(map(id, probes), found, strict=True))
        self.features: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        requests = [*(case.edit for case in cases), *self.others]
        for start in range(0, len(requests), _BATCH):
            self._add_features(requests[start : start + _BATCH], source)

    def _add_features(self, requests: Sequence[EditRequest], source: StateSource) -> None:
        states = states_of(source, [edit_input(request) for request in requests])
        features = self.editor.generator.edit_features(states)
        pairs = zip(features.visual_BQM.flatten(1), features.prompt_BQM.flatten(1), strict=True)
        self.features |= dict(zip([request.edit_id for request in requests], pairs, strict=True))

    def bank(self, edit_ids: Sequence[str]) -> Editor:
        """An editor whose experts have no matrices."""
        visual, prompt = zip(*(self.features[edit_id] for edit_id in edit_ids), strict=True)
        repository = replace(
            ExpertRepository.empty(self.editor.generator.config),
            edit_ids=tuple(edit_ids),
            visual=torch.stack(visual),
            prompt=torch.stack(prompt),
            ranks_N=torch.zeros(len(edit_ids), dtype=torch.int64),
        )
        return self.editor.with_repository(repository)

    def ask(self, size: int, seed: int, shares: Shares) -> float:
        """Ask one bank; the offset of its filter."""
        cases = random.Random(seed).sample(self.cases, min(size, len(self.cases)))
        others = random.Random(seed).sample(self.others, size - len(cases))
        editor = self.bank([*(case.edit.edit_id for case in cases), *(r.edit_id for r in others)])
        asked = [(case, probe) for case in cases for probe in self.probes[case.case_id]]
        for start in range(0, len(asked), _BATCH):
            batch = asked[start : start + _BATCH]
            routing = editor.route([self.states[id(probe)] for _, probe in batch])
            for (case, probe), found in zip(batch, editor.explain(routing), strict=True):
                weights = dict(zip(found.kept, found.weights, strict=True))
                is_stranger = probe.kind is ProbeKind.IMAGE_SWAP_LOCALITY
                hit = bool(weights) if is_stranger else weights.get(case.edit.edit_id, 0.0) > 0.5
                for name in names_of(probe):
                    shares[name].append((case.entity, hit))
        return editor.calibration.offset


def names_of(probe: Probe) -> list[str]:
    kind = str(probe.kind)
    return [kind, f"{kind}, {probe.variant}"] if probe.variant else [kind]


def states_of(source: StateSource, inputs: Sequence[Any]) -> list[LayerStates]:
    """What routing reads of the states: pyramids, not hidden states."""
    return [
        replace(state, hidden_TD=torch.zeros(0, 0))
        for start in range(0, len(inputs), _BATCH)
        for state in source.states(inputs[start : start + _BATCH])
    ]


def row_of(domain: Domain, size: int, budget: float) -> dict[str, Any]:
    shares: Shares = defaultdict(list)
    seeds = range(NUM_BANKS.get(size, 3))
    offsets = [domain.ask(size, seed, shares) for seed in seeds]
    stranger = share_of(shares[str(ProbeKind.IMAGE_SWAP_LOCALITY)])
    return {
        "edits": size,
        "banks": len(offsets),
        "offsets": [round(min(offsets), 3), round(max(offsets), 3)],
        "measured_over_budget": round(stranger["percent"] / 100 / budget, 2),
        "shares": {name: share_of(found) for name, found in sorted(shares.items())},
    }


def share_of(found: Sequence[tuple[str, bool]]) -> dict[str, Any]:
    """In per cent; each entity counts once."""
    by_entity: Mapping[str, list[bool]] = defaultdict(list)
    for entity, hit in found:
        by_entity[entity].append(hit)
    means = [sum(hits) / len(hits) for hits in by_entity.values()]
    share, count = sum(means) / len(means), len(means)
    interval = exact_interval(sum(means), count)
    low, high = (round(100 * bound, 1) for bound in (interval.low, interval.high))
    return {
        "percent": round(100 * share, 1),
        "interval": [low, high],
        "probes": len(found),
        "entities": count,
    }


def table(result: Mapping[str, Any]) -> str:
    """The table of the data card."""
    heads = ["domain", "N", "banks", "measured / budget", "strangers", "nearest", "random"]
    heads += ["changed copies found", "other drawings found"]
    rows = []
    for domain, sizes in result["domains"].items():
        for row in sizes:
            shares = row["shares"]
            kinds = ("", ", nearest", ", random")
            strangers = [_cell(shares[f"{ProbeKind.IMAGE_SWAP_LOCALITY}{kind}"]) for kind in kinds]
            drawings = shares.get(OTHER_DRAWING)
            copies = [
                share
                for name, share in shares.items()
                if name.startswith(f"{ProbeKind.MODAL_GENERALITY}, ") and name != OTHER_DRAWING
            ]
            num_copies = sum(share["probes"] for share in copies)
            found = sum(share["percent"] * share["probes"] for share in copies) / num_copies
            ratio = f"{row['measured_over_budget']:g}"
            counts = [f"{row['edits']:,}", str(row["banks"]), ratio]
            other = f"{drawings['percent']}" if drawings else ""
            rows.append([domain, *counts, *strangers, f"{found:.1f}", other])
    return markdown(heads, rows)


def _cell(share: Mapping[str, Any]) -> str:
    low, high = share["interval"]
    return f"{share['percent']:.1f} [{low:.0f}-{high:.0f}]"


def main(arguments: list[str] | None = None) -> int:
    """Print the shares of every domain and size."""
    parser = parser_of(__doc__)
    parser.add_argument("--split", default="validation", choices=("validation", "test"))
    parser.add_argument("--run-root", default="runs", help="folder of the state cache")
    parser.add_argument("--domains", nargs="*", help="default: all")
    options = parser.parse_args(arguments)
    generator = load_generator(builtin_generator_folder())
    reader = f"filter by domain of generator {generator.digest[:12]}"
    section = BenchmarkSection(name="builtin", split=options.split)
    cases = load_builtin(section, reader, lambda text: print(text, file=sys.stderr))
    others = [
        *load_builtin_cases("crowd", "user_world"),
        *load_builtin_cases("development", "emblem_edit"),
    ]
    needed = generator.config.load_options(LoadOptions(compute_dtype="float32"))
    backbone = load_named_backbone(BUILTIN, needed, builtin_batch_size=_BATCH)
    repository = ExpertRepository.empty(generator.config)
    editor = Editor(backbone, generator, repository)
    rows: dict[str, list[dict[str, Any]]] = {}
    with state_source(StatesSection(is_cached=True), options.run_root, backbone) as source:
        for name in options.domains or sorted({domain_of(case) for case in cases}):
            own = [case for case in cases if domain_of(case) == name]
            seen = {case.entity for case in own}
            further = [c for c in others if domain_of(c) == name and c.entity not in seen]
            sizes = [size for size in SIZES if size <= len(own) + len(further)]
            largest = max(sizes, default=0)
            domain = Domain(editor, source, own, further[: max(0, largest - len(own))])
            rows[name] = [row_of(domain, size, repository.false_activation) for size in sizes]
            print(name, rows[name], file=sys.stderr, flush=True)
    result = {
        "split": options.split,
        "generator": generator.digest,
        "budget": repository.false_activation,
        "machine": machine(),
        "domains": rows,
    }
    publish(result, options.output)
    print(table(result), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
