"""Several editors, the same edits in the same order, the same probes.

For each N the cases are split into groups of N, in their order. Every editor edits with a group, is
scored on cases of the group, and is restored; `lifelong_curves` does the same for one bank. One
process, no Ray.
"""

import random
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.baselines.protocol import ComparedEditor, EditorMemory
from liveedit_core.errors import ConfigError
from liveedit_core.evaluation.probes import PROTOCOLS, PreparedCases, PreparedProbe, ProbeResult
from liveedit_core.evaluation.scoring import CaseProbe, ProbePreparer
from liveedit_core.evaluation.summaries import Summary, summarize
from liveedit_core.method.editor import edit_input
from liveedit_core.method.generator import LiveEditGenerator
from liveedit_core.schema import Case, ProbeKind, entity_of
from liveedit_core.state_source import StateSource
from pipelines.baselines.editors import make_editors
from pipelines.baselines.recipe import CompareRecipe

CHUNK_CASES = 32
"""Cases prepared at a time: 250 probes of some 150 kB for the built-in backbone."""
CACHED_CASES = 128
"""Prepared cases that are kept for the next number of edits, some 150 MB."""
FREE_KINDS = (ProbeKind.RELIABILITY, ProbeKind.TEXT_GENERALITY, ProbeKind.MODAL_GENERALITY)
"""Metrics that are reported under free generation as well."""

NO_MEMORY = EditorMemory(fixed_bytes=0, stored_bytes=0)
Say = Callable[[str], None]
"""Prints progress."""


@dataclass(frozen=True, kw_only=True)
class EditorScores:
    """What one editor reached after N edits, over all groups of N."""

    name: str
    num_edits: int
    num_groups: int
    num_scored_cases: int
    summary: Summary
    teach_s: float
    score_s: float
    memory: EditorMemory
    """After the last group."""

    @property
    def edit_s(self) -> float:
        """Time of one edit."""
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


def choose_cases(recipe: CompareRecipe, cases: Sequence[Case]) -> list[Case]:
    """The cases in the order of teaching; smaller numbers of edits use the first of them."""
    if recipe.num_cases > len(cases):
        raise ConfigError(
            f"edits: {list(recipe.edits)} with min_cases {recipe.min_cases} need "
            f"{recipe.num_cases} cases, there are at most {len(cases)}"
        )
    return random.Random(recipe.seed).sample(list(cases), recipe.num_cases)


def evenly_spread(items: Sequence[Case], count: int) -> list[Case]:
    """`count` items at even distances."""
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def compare(
    recipe: CompareRecipe,
    backbone: VisionLanguageBackbone,
    generator: LiveEditGenerator | None,
    cases: Sequence[Case],
    source: StateSource,
    say: Say,
) -> Comparison:
    """Teach, score and restore every editor, group after group, at each number of edits.

    Only LiveEdit needs the generator; no editor alters the backbone.
    """
    chosen = choose_cases(recipe, cases)
    editors = make_editors(recipe, backbone, generator)
    preparer = ProbePreparer(backbone, batch_size=recipe.batch_size)
    probes = ProbeCache(preparer, source, recipe.max_new_tokens)
    scores: list[EditorScores] = []
    for size in recipe.sizes:
        taught = chosen[: size * recipe.num_groups(size)]
        scores += compare_at(recipe, size, taught, editors, probes, source, say)
    digests = {"backbone": backbone.digest}
    if generator is not None:
        digests["generator"] = generator.digest
    return Comparison(recipe=recipe, scores=tuple(scores), digests=digests)


def compare_at(
    recipe: CompareRecipe,
    size: int,
    taught: Sequence[Case],
    editors: Sequence[ComparedEditor],
    probes: ProbeCache,
    source: StateSource,
    say: Say,
) -> list[EditorScores]:
    """One number of edits: a row for each editor."""
    scored = evenly_spread(taught, recipe.scored_cases or len(taught))
    free_ids = frozenset(case.case_id for case in evenly_spread(scored, recipe.free_cases))
    scored_ids = {case.case_id for case in scored}
    tallies = {editor.name: _Tally() for editor in editors}
    for start in range(0, len(taught), size):
        group = taught[start : start + size]
        teach_group(editors, group, source, tallies)
        chosen = [case for case in group if case.case_id in scored_ids]
        score_group(recipe, editors, chosen, free_ids, probes, tallies)
        for editor in editors:
            editor.restore()
        say(f"{size} edits: group {start // size + 1} of {len(taught) // size}")
    return [
        EditorScores(
            name=name,
            num_edits=size,
            num_groups=len(taught) // size,
            num_scored_cases=len(scored),
            summary=summarize(tally.results, entity_of(taught)),
            teach_s=tally.teach_s,
            score_s=tally.score_s,
            memory=tally.memory,
        )
        for name, tally in tallies.items()
    ]


def teach_group(
    editors: Sequence[ComparedEditor],
    group: Sequence[Case],
    source: StateSource,
    tallies: Mapping[str, _Tally],
) -> None:
    """Teach a group in order. The time starts at the hidden states at l_e, which all share."""
    for start in range(0, len(group), CHUNK_CASES):
        chunk = group[start : start + CHUNK_CASES]
        requests = [request for case in chunk for request in case.requests]
        states = source.states([edit_input(request) for request in requests])
        for editor in editors:
            start_s = time.perf_counter()
            editor.teach(requests, states)
            tallies[editor.name].teach_s += time.perf_counter() - start_s
    for editor in editors:
        tallies[editor.name].memory = editor.memory()


def score_group(
    recipe: CompareRecipe,
    editors: Sequence[ComparedEditor],
    cases: Sequence[Case],
    free_ids: frozenset[str],
    probes: ProbeCache,
    tallies: Mapping[str, _Tally],
) -> None:
    """Score cases of a group with every editor, in chunks that fit into memory."""
    for start in range(0, len(cases), CHUNK_CASES):
        prepared = probes.prepare(cases[start : start + CHUNK_CASES], free_ids)
        for editor in editors:
            tally = tallies[editor.name]
            start_s = time.perf_counter()
            tally.results += editor.score(
                prepared, protocols=PROTOCOLS, max_new_tokens=recipe.max_new_tokens
            )
            tally.score_s += time.perf_counter() - start_s
