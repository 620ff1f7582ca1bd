"""Several editors, the same edits in the same order, the same probes.

For each N the cases are split into groups of N, in their order. Every editor edits with a group, is
scored on cases of the group, and is restored. Numbers of edits with equally many groups are taught
together, so a group of 1 is the beginning of a group of 10:

    teach 1 case, score; teach 9 more, score; restore

Finished groups are kept (`group_store.py`). One process, no Ray.
"""

import random
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.baselines.protocol import EditorMemory
from liveedit_core.errors import ConfigError
from liveedit_core.evaluation.comparable import cases_identity
from liveedit_core.evaluation.probes import PROTOCOLS, PreparedCases, PreparedProbe, ProbeResult
from liveedit_core.evaluation.scoring import CaseProbe, ProbePreparer
from liveedit_core.evaluation.summaries import (
    LabelSummary,
    Summary,
    summarize,
    summarize_variants,
)
from liveedit_core.method.editor import edit_input
from liveedit_core.schema import Case, ProbeKind, entity_of
from liveedit_core.state_source import StateSource
from pipelines.baselines.cold_edits import cold_edit_s
from pipelines.baselines.editors import EditorRow, Generators, make_editors
from pipelines.baselines.group_store import GroupStore, RungScores
from pipelines.baselines.recipe import CompareRecipe
from pipelines.job.cases import evaluation_digest

CHUNK_CASES = 16
"""Cases prepared at a time: up to 600 probes of some 150 kB for the built-in backbone."""
CACHED_CASES = 32
"""Prepared cases that are kept for the next number of edits, up to 200 MB."""
FREE_KINDS = tuple(kind for kind in ProbeKind if not kind.is_locality)
"""Metrics that are reported under free generation as well."""

NO_MEMORY = EditorMemory(fixed_bytes=0, stored_bytes=0)
Say = Callable[[str], None]
"""Prints progress."""


@dataclass(frozen=True, kw_only=True)
class EditorScores:
    """What one editor reached after N edits, over all groups of N."""

    name: str
    configuration: str
    """The name of all seeds of a configuration."""
    trained_on: str
    train_s: float | None
    """Seconds of training before the first edit."""
    num_trained: int
    """Parameters that were trained then."""
    num_trials: int
    """On validation, before the settings were chosen."""
    num_edits: int
    num_groups: int
    num_scored_cases: int
    summary: Summary
    by_variant: LabelSummary
    teach_s: float
    score_s: float
    cold_s: float
    """Of one edit, from the image's bytes on."""
    memory: EditorMemory
    """After the last group."""

    @property
    def edit_s(self) -> float:
        """Time of one case's edits."""
        return self.teach_s / (self.num_edits * self.num_groups)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All editors at all numbers of edits."""

    recipe: CompareRecipe
    scores: tuple[EditorScores, ...]
    """By number of edits, then in the order of the recipe."""
    digests: Mapping[str, str]


@dataclass(kw_only=True)
class _Tally:
    """What adds up over groups."""

    results: list[ProbeResult] = field(default_factory=list)
    teach_s: float = 0.0
    score_s: float = 0.0
    memory: EditorMemory = NO_MEMORY

    def add(self, rung: RungScores) -> None:
        self.results += rung.results
        self.teach_s += rung.teach_s
        self.score_s += rung.score_s
        self.memory = rung.memory


class ProbeCache:
    """Prepares the probes of cases, and keeps them for the next number of edits."""

    def __init__(self, preparer: ProbePreparer, source: StateSource, max_new_tokens: int) -> None:
        self._preparer = preparer
        self._source = source
        self._max_new_tokens = max_new_tokens
        self._cached: OrderedDict[tuple[str, bool], list[PreparedProbe]] = OrderedDict()

    def prepare(self, cases: Sequence[Case], free_ids: frozenset[str]) -> PreparedCases:
        """Probes of some cases; those in `free_ids` with free answers for `FREE_KINDS`."""
        keys = [(case.case_id, case.case_id in free_ids) for case in cases]
        wanted = [
            CaseProbe(case, index, probe, has_free and probe.kind in FREE_KINDS)
            for case, (_, has_free) in zip(cases, keys, strict=True)
            if (case.case_id, has_free) not in self._cached
            for index, probe in enumerate(case.all_probes())
        ]
        done = self._preparer.prepare_probes(
            wanted, max_new_tokens=self._max_new_tokens, source=self._source
        )
        for item, prepared in zip(wanted, done.probes, strict=True):
            key = (item.case.case_id, item.case.case_id in free_ids)
            self._cached.setdefault(key, []).append(prepared)
        probes = tuple(probe for key in keys for probe in self._cached[key])
        while len(self._cached) > CACHED_CASES:
            self._cached.popitem(last=False)
        return PreparedCases(probes=probes)


@dataclass(frozen=True, kw_only=True)
class Group:
    """Cases that are taught together."""

    sizes: tuple[int, ...]
    """Numbers of edits at which they are scored, smallest first."""
    index: int
    num_groups: int
    cases: tuple[Case, ...]
    recipe: CompareRecipe

    def scored(self, size: int) -> tuple[list[Case], frozenset[str]]:
        """The cases that are scored after `size` edits, and the ids of those under free generation:
        evenly spread, from another position in each group."""
        cases = self.cases[:size]
        scored = self._share(cases, self.recipe.scored_cases or size * self.num_groups)
        free = self._share(scored, self.recipe.free_cases)
        return scored, frozenset(case.case_id for case in free)

    def _share(self, cases: Sequence[Case], wanted: int) -> list[Case]:
        count = min(-(-wanted // self.num_groups), len(cases))
        places = {(self.index + i * len(cases) // count) % len(cases) for i in range(count)}
        return [cases[place] for place in sorted(places)]


def plan(recipe: CompareRecipe, cases: Sequence[Case]) -> list[Group]:
    """The groups of all numbers of edits; the seed mixes the cases, all of which are used in
    order at each number of edits."""
    mixed = random.Random(recipe.seed).sample(list(cases), len(cases))
    groups = []
    for wanted, sizes in recipe.ladders:
        size = sizes[-1]
        count = min(wanted, len(mixed) // size)
        if not count:
            raise ConfigError(
                f"edits: {list(recipe.edits)} need {size} cases, there are at most {len(mixed)}"
            )
        groups += [
            Group(
                sizes=sizes,
                index=index,
                num_groups=count,
                cases=tuple(mixed[index * size : (index + 1) * size]),
                recipe=recipe,
            )
            for index in range(count)
        ]
    return groups


class GroupRunner:
    """Teaches and scores groups, but for those that are finished already."""

    def __init__(
        self, recipe: CompareRecipe, backbone: VisionLanguageBackbone, source: StateSource
    ) -> None:
        self.recipe = recipe
        self.backbone = backbone
        self.source = source
        preparer = ProbePreparer(backbone, batch_size=recipe.batch_size)
        self.probes = ProbeCache(preparer, source, recipe.max_new_tokens)
        self.store = GroupStore(recipe.run_folder / "groups")

    def run(self, rows: Sequence[EditorRow], group: Group) -> dict[str, list[RungScores]]:
        """Scores by editor, at each number of edits of the group."""
        done: dict[str, list[RungScores]] = {}
        missing = []
        for row in rows:
            found = self.store.read(self._path(row, group), self._identity(row, group))
            if found is None:
                missing.append(row)
            else:
                done[row.name] = found
        done |= self._taught(missing, group)
        for row in missing:
            identity = self._identity(row, group)
            self.store.write(self._path(row, group), identity, done[row.name])
        return {row.name: done[row.name] for row in rows}

    def _path(self, row: EditorRow, group: Group) -> Path:
        return self.store.path(row.name, group.sizes, group.index)

    def _identity(self, row: EditorRow, group: Group) -> str:
        """Everything that the scores of a group depend on."""
        recipe, backbone = self.recipe, self.backbone
        counts = (group.num_groups, recipe.scored_cases, recipe.free_cases, recipe.max_new_tokens)
        model = (backbone.digest, backbone.edit_layer, backbone.encoding)
        return evaluation_digest(
            group.cases, *counts, group.sizes, group.index, *model, row.identity
        )

    def _taught(self, rows: Sequence[EditorRow], group: Group) -> dict[str, list[RungScores]]:
        rungs: dict[str, list[RungScores]] = {row.name: [] for row in rows}
        if not rows:
            return rungs
        teach_s = {row.name: 0.0 for row in rows}
        before = 0
        for size in group.sizes:
            for name, seconds in self._teach(rows, group.cases[before:size]).items():
                teach_s[name] += seconds
            before = size
            found = self._score(rows, *group.scored(size))
            for row in rows:
                results, score_s = found[row.name]
                rungs[row.name].append(
                    RungScores(
                        num_edits=size,
                        teach_s=teach_s[row.name],
                        score_s=score_s,
                        memory=row.editor.memory(),
                        results=tuple(results),
                    )
                )
        for row in rows:
            row.editor.restore()
        return rungs

    def _teach(self, rows: Sequence[EditorRow], cases: Sequence[Case]) -> dict[str, float]:
        """Teach cases in order, the edits that they correct first. The time starts at the hidden
        states at l_e, which all share."""
        seconds = {row.name: 0.0 for row in rows}
        requests = [request for case in cases for request in case.requests]
        for start in range(0, len(requests), CHUNK_CASES):
            chunk = requests[start : start + CHUNK_CASES]
            states = self.source.states([edit_input(request) for request in chunk])
            for row in rows:
                start_s = time.perf_counter()
                row.editor.teach(chunk, states)
                seconds[row.name] += time.perf_counter() - start_s
        return seconds

    def _score(
        self, rows: Sequence[EditorRow], cases: Sequence[Case], free_ids: frozenset[str]
    ) -> dict[str, tuple[list[ProbeResult], float]]:
        """Results and seconds of every editor, in chunks of cases that fit into memory."""
        results: dict[str, list[ProbeResult]] = {row.name: [] for row in rows}
        seconds = {row.name: 0.0 for row in rows}
        for start in range(0, len(cases), CHUNK_CASES):
            prepared = self.probes.prepare(cases[start : start + CHUNK_CASES], free_ids)
            for row in rows:
                start_s = time.perf_counter()
                results[row.name] += row.editor.score(
                    prepared, protocols=PROTOCOLS, max_new_tokens=self.recipe.max_new_tokens
                )
                seconds[row.name] += time.perf_counter() - start_s
        return {row.name: (results[row.name], seconds[row.name]) for row in rows}


def compare(
    recipe: CompareRecipe,
    backbone: VisionLanguageBackbone,
    generators: Generators,
    cases: Sequence[Case],
    source: StateSource,
    say: Say,
) -> Comparison:
    """Teach, score and restore every editor, group after group, at each number of edits.

    Only LiveEdit and lookup need generators; no editor alters the backbone.
    """
    groups = plan(recipe, cases)
    rows = make_editors(recipe, backbone, generators)
    runner = GroupRunner(recipe, backbone, source)
    tallies: dict[tuple[int, str], _Tally] = {}
    scored: dict[int, list[Case]] = {size: [] for size in recipe.sizes}
    num_groups = {size: group.num_groups for group in groups for size in group.sizes}
    for group in groups:
        for name, rungs in runner.run(rows, group).items():
            for rung in rungs:
                tallies.setdefault((rung.num_edits, name), _Tally()).add(rung)
        for size in group.sizes:
            scored[size] += group.scored(size)[0]
        sizes = " and ".join(map(str, group.sizes))
        say(f"{sizes} edits: group {group.index + 1} of {group.num_groups}")
    timed = groups[-1].cases[: recipe.cold_edits + 1]
    cold_s = {row.name: cold_edit_s(row.editor, backbone, timed) for row in rows}
    scores = [
        EditorScores(
            name=row.name,
            configuration=row.configuration,
            trained_on=row.trained_on,
            train_s=row.train_s,
            num_trained=row.num_trained,
            num_trials=row.num_trials,
            num_edits=size,
            num_groups=num_groups[size],
            num_scored_cases=len(scored[size]),
            summary=summarize(
                tallies[size, row.name].results, entity_of(scored[size]), seed=recipe.seed
            ),
            by_variant=summarize_variants(
                tallies[size, row.name].results, scored[size], seed=recipe.seed
            ),
            teach_s=tallies[size, row.name].teach_s,
            score_s=tallies[size, row.name].score_s,
            cold_s=cold_s[row.name],
            memory=tallies[size, row.name].memory,
        )
        for size in recipe.sizes
        for row in rows
    ]
    digests = {"backbone": backbone.digest, "cases": cases_identity(cases)}
    digests |= {f"generator {name}": found.generator.digest for name, found in generators.items()}
    return Comparison(recipe=recipe, scores=tuple(scores), digests=digests)
