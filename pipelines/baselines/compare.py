"""Several editors, the same edits in the same order, the same probes.

For each N the cases are split into groups of N, in their order. Every editor edits with a group, is
scored on cases of the group, and is restored. Numbers of edits with equally many groups are taught
together, so a group of 1 is the beginning of a group of 10:

    teach 1 case, score; teach 9 more, score; restore

The edits of scored cases are also asked right after each was taught, and questions about entities
of other cases show what else has changed. Finished groups are kept (`group_store.py`). One process,
no Ray.
"""

import random
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.errors import ConfigError
from liveedit_core.evaluation.comparable import cases_identity
from liveedit_core.evaluation.probes import (
    PROTOCOLS,
    TEACHER_FORCED,
    PreparedCases,
    PreparedProbe,
    ProbeResult,
)
from liveedit_core.evaluation.scoring import CaseProbe, ProbePreparer
from liveedit_core.method.editor import edit_input
from liveedit_core.schema import Case, Probe, ProbeKind, entity_of
from liveedit_core.state_source import StateSource
from pipelines.baselines.cold_edits import cold_edit_s
from pipelines.baselines.editors import EditorRow, Generators, make_editors
from pipelines.baselines.group_store import GroupStore, RungScores
from pipelines.baselines.recipe import CompareRecipe
from pipelines.baselines.scores import EditorScores, Tally
from pipelines.job.cases import evaluation_digest

CHUNK_CASES = 16
"""Cases prepared at a time: up to 600 probes of some 150 kB for the built-in backbone."""
CACHED_CASES = 32
"""Prepared cases that are kept for the next number of edits, up to 200 MB."""
FREE_KINDS = tuple(kind for kind in ProbeKind if not kind.is_locality)
"""Metrics that are reported under free generation as well."""

Say = Callable[[str], None]
"""Prints progress."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All editors at all numbers of edits."""

    recipe: CompareRecipe
    scores: tuple[EditorScores, ...]
    """By number of edits, then in the order of the recipe."""
    digests: Mapping[str, str]


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

    def prepare_unrelated(self, cases: Sequence[Case]) -> PreparedCases:
        """The edits' questions of cases that are not taught: the unedited answer is to stay."""
        wanted = [
            CaseProbe(
                case,
                0,
                Probe(
                    kind=ProbeKind.MODAL_LOCALITY,
                    prompt=case.edit.prompt,
                    target="",
                    image_bytes=case.edit.image_bytes,
                ),
            )
            for case in cases
        ]
        return self._preparer.prepare_probes(
            wanted, max_new_tokens=self._max_new_tokens, source=self._source
        )


@dataclass(frozen=True, kw_only=True)
class Group:
    """Cases that are taught together."""

    sizes: tuple[int, ...]
    """Numbers of edits at which they are scored, smallest first."""
    index: int
    num_groups: int
    cases: tuple[Case, ...]
    unrelated: tuple[Case, ...]
    """Cases of other entities, which are asked about and not taught."""
    recipe: CompareRecipe

    def scored(self, size: int) -> tuple[list[Case], frozenset[str]]:
        """The cases that are scored after `size` edits, and the ids of those under free generation:
        evenly spread, from another position in each group."""
        cases = self.cases[:size]
        scored = self._share(cases, self.recipe.scored_cases or size * self.num_groups)
        free = self._share(scored, self.recipe.free_cases)
        return scored, frozenset(case.case_id for case in free)

    def asked_right_after(self, size: int) -> dict[str, bool]:
        """The cases that are scored after `size` edits and that others follow until then; whether
        they are asked under free generation too."""
        scored, free = self.scored(size)
        last = self.cases[size - 1]
        return {case.case_id: case.case_id in free for case in scored if case is not last}

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
        num_asked = -(-recipe.unrelated_questions // count)
        for index in range(count):
            taught = tuple(mixed[index * size : (index + 1) * size])
            groups.append(
                Group(
                    sizes=sizes,
                    index=index,
                    num_groups=count,
                    cases=taught,
                    unrelated=_unrelated(mixed, taught, index * num_asked, num_asked),
                    recipe=recipe,
                )
            )
    return groups


def _unrelated(
    cases: Sequence[Case], taught: Sequence[Case], start: int, count: int
) -> tuple[Case, ...]:
    """Cases from some position on, in a circle, whose entity and image are those of no case that is
    taught; fewer where there are fewer."""
    entities = set(entity_of(taught).values())
    images = {request.image_bytes for case in taught for request in case.requests} - {None}
    other = [
        case
        for case in cases
        if (case.entity or case.case_id) not in entities and case.edit.image_bytes not in images
    ]
    return tuple(other[(start + i) % len(other)] for i in range(min(count, len(other))))


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

    def check(self, rows: Sequence[EditorRow], case: Case) -> None:
        """Raise what is wrong with a case: every editor is taught it alone, asked, and restored."""
        try:
            self._teach(rows, [case])
            self._score(rows, [case], frozenset([case.case_id]))
        finally:
            for row in rows:
                row.editor.restore()

    def _path(self, row: EditorRow, group: Group) -> Path:
        return self.store.path(row.name, group.sizes, group.index)

    def _identity(self, row: EditorRow, group: Group) -> str:
        """Everything that the scores of a group depend on."""
        recipe, backbone = self.recipe, self.backbone
        counts = (group.num_groups, recipe.scored_cases, recipe.free_cases, recipe.max_new_tokens)
        others = cases_identity(group.unrelated)
        model = (backbone.digest, backbone.edit_layer, backbone.encoding)
        return evaluation_digest(
            group.cases, others, *counts, group.sizes, group.index, *model, row.identity
        )

    def _taught(self, rows: Sequence[EditorRow], group: Group) -> dict[str, list[RungScores]]:
        rungs: dict[str, list[RungScores]] = {row.name: [] for row in rows}
        if not rows:
            return rungs
        teach_s = {row.name: 0.0 for row in rows}
        right_after: dict[str, list[ProbeResult]] = {row.name: [] for row in rows}
        asked: dict[str, bool] = {}
        for size in group.sizes:
            for case_id, has_free in group.asked_right_after(size).items():
                asked[case_id] = asked.get(case_id, False) or has_free
        unrelated = self.probes.prepare_unrelated(group.unrelated)
        before = 0
        for size in group.sizes:
            for part in cut_after(group.cases[before:size], asked):
                for name, seconds in self._teach(rows, part).items():
                    teach_s[name] += seconds
                if part[-1].case_id in asked:
                    for name, found in self._ask_edit(rows, part[-1], asked).items():
                        right_after[name] += found
            before = size
            scores = self._score(rows, *group.scored(size))
            others = self._score_prepared(rows, unrelated, (TEACHER_FORCED,))
            asked_here = group.asked_right_after(size)
            for row in rows:
                results, score_s = scores[row.name]
                rungs[row.name].append(
                    RungScores(
                        num_edits=size,
                        teach_s=teach_s[row.name],
                        score_s=score_s,
                        memory=row.editor.memory(),
                        results=tuple(results),
                        right_after=tuple(
                            item for item in right_after[row.name] if item.case_id in asked_here
                        ),
                        unrelated=tuple(others[row.name][0]),
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

    def _ask_edit(
        self, rows: Sequence[EditorRow], case: Case, asked: Mapping[str, bool]
    ) -> dict[str, list[ProbeResult]]:
        """Results of the edit of a case alone."""
        free_ids = frozenset([case.case_id] if asked[case.case_id] else [])
        prepared = self.probes.prepare([case], free_ids)
        own = tuple(p for p in prepared.probes if p.kind is ProbeKind.RELIABILITY)
        found = self._score_prepared(rows, PreparedCases(probes=own), PROTOCOLS)
        return {name: results for name, (results, _) in found.items()}

    def _score(
        self, rows: Sequence[EditorRow], cases: Sequence[Case], free_ids: frozenset[str]
    ) -> dict[str, tuple[list[ProbeResult], float]]:
        """Results and seconds of every editor, in chunks of cases that fit into memory."""
        results: dict[str, list[ProbeResult]] = {row.name: [] for row in rows}
        seconds = {row.name: 0.0 for row in rows}
        for start in range(0, len(cases), CHUNK_CASES):
            prepared = self.probes.prepare(cases[start : start + CHUNK_CASES], free_ids)
            for name, found in self._score_prepared(rows, prepared, PROTOCOLS).items():
                results[name] += found[0]
                seconds[name] += found[1]
        return {row.name: (results[row.name], seconds[row.name]) for row in rows}

    def _score_prepared(
        self, rows: Sequence[EditorRow], prepared: PreparedCases, protocols: Sequence[str]
    ) -> dict[str, tuple[list[ProbeResult], float]]:
        found = {}
        for row in rows:
            start_s = time.perf_counter()
            results = row.editor.score(
                prepared, protocols=protocols, max_new_tokens=self.recipe.max_new_tokens
            )
            found[row.name] = results, time.perf_counter() - start_s
        return found


def cut_after(cases: Sequence[Case], case_ids: Collection[str]) -> list[Sequence[Case]]:
    """Cases in parts, each but the last ending with one of some cases."""
    ends = [n for n, case in enumerate(cases, 1) if case.case_id in case_ids]
    starts = [0, *(end for end in ends if end < len(cases))]
    return [cases[start:end] for start, end in zip(starts, [*starts[1:], len(cases)], strict=True)]


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
    tallies: dict[tuple[int, str], Tally] = {}
    scored: dict[int, list[Case]] = {size: [] for size in recipe.sizes}
    num_groups = {size: group.num_groups for group in groups for size in group.sizes}
    for group in groups:
        for name, rungs in runner.run(rows, group).items():
            for rung in rungs:
                tallies.setdefault((rung.num_edits, name), Tally()).add(rung)
        for size in group.sizes:
            scored[size] += group.scored(size)[0]
        sizes = " and ".join(map(str, group.sizes))
        say(f"{sizes} edits: group {group.index + 1} of {group.num_groups}")
    timed = groups[-1].cases[: recipe.cold_edits + 1]
    cold_s = {row.name: cold_edit_s(row.editor, backbone, timed) for row in rows}
    entities = entity_of(cases)
    scores = [
        tallies[size, row.name].scores(
            row,
            num_edits=size,
            num_groups=num_groups[size],
            scored=scored[size],
            entities=entities,
            cold_s=cold_s[row.name],
            seed=recipe.seed,
        )
        for size in recipe.sizes
        for row in rows
    ]
    digests = {"backbone": backbone.digest, "cases": cases_identity(cases)}
    digests |= {f"generator {name}": found.generator.digest for name, found in generators.items()}
    return Comparison(recipe=recipe, scores=tuple(scores), digests=digests)
