"""Prepares cases and scores them against any repository (METHOD.md 6, 7).

    cases --prepare--> prepared cases --score--> results --summarize--> metrics with intervals
        (scoring.py)                  (probes.py)        (summaries.py)

`prepare` computes once what no edit can change: hidden states at l_e and the unedited answers.
`score` then runs only the layers after l_e, and only where at least one expert is kept: elsewhere
the answer is the unedited one, bit for bit.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from liveedit_core.backbones.protocol import Backbone, BackboneInput, Residual
from liveedit_core.evaluation.edited_answers import EditedQuery, clear_if_full, matrix_digests
from liveedit_core.evaluation.probes import (
    FREE_GENERATION,
    TEACHER_FORCED,
    PreparedCases,
    PreparedProbe,
    ProbeResult,
    free_generation_result,
    probe_input,
    teacher_forced_result,
)
from liveedit_core.evaluation.unedited_answers import (
    AnswerCache,
    UneditedAnswer,
    UneditedQuery,
    cached_answers,
)
from liveedit_core.hops import FactsOf, hops_of_forms, in_own_words
from liveedit_core.inputs.limits import MAX_TARGET_TOKENS
from liveedit_core.method.editor import NOTHING_KEPT, Editor, Routing
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.schema import Case, Probe
from liveedit_core.state_source import BackboneStates, StateSource
from liveedit_core.states import LayerStates, pad_hidden

MAX_LOCALITY_TOKENS = 6
"""Length of the unedited answer that replaces the missing target of a locality probe."""


class CaseProbe(NamedTuple):
    case: Case
    probe_index: int
    """Among all probes of the case."""
    probe: Probe
    has_free_answer: bool = False
    """Whether to compute the unedited backbone's free answer too."""


def probes_of(cases: Sequence[Case], free_case_ids: Collection[str]) -> list[CaseProbe]:
    """All probes of some cases, with free answers for some of these."""
    return [
        CaseProbe(case, index, probe, case.case_id in free_case_ids)
        for case in cases
        for index, probe in enumerate(case.all_probes())
    ]


class _Asked(NamedTuple):
    """A probe's input at the edited model."""

    probe: PreparedProbe
    """With what is asked in place of its question."""
    routing: Routing
    ids: tuple[int, ...]
    """Argmax at each target position and after the target; () where no expert is kept."""


def decided_length(
    ids: Sequence[int], target_ids: Sequence[int], end_id: int, max_new_tokens: int
) -> int | None:
    """Number of the target's tokens that are the whole greedy answer, by the argmax `ids` at its
    positions and after it; None if the answer leaves the target before it ends."""
    for length, (found, wanted) in enumerate(zip(ids, (*target_ids, end_id), strict=True)):
        if found == end_id or length == max_new_tokens:
            return length
        if found != wanted:
            return None
    return None


def _content(item: BackboneInput) -> tuple[bytes | None, str, str, int | None]:
    """What the states of a probe's input depend on."""
    return item.image_bytes, item.prompt, item.target, item.form


class ProbePreparer:
    """Computes of probes what no edit can change."""

    def __init__(self, backbone: Backbone, *, batch_size: int = 16) -> None:
        self.backbone = backbone
        self.batch_size = batch_size

    def prepare(
        self,
        cases: Sequence[Case],
        *,
        has_free_answers: bool = False,
        free_case_ids: Collection[str] = (),
        max_new_tokens: int = MAX_TARGET_TOKENS,
        source: StateSource | None = None,
        answer_cache: AnswerCache | None = None,
    ) -> PreparedCases:
        """Prepare all probes of some cases. A locality probe without a target is scored on the
        backbone's own greedy answer."""
        free_ids = {case.case_id for case in cases} if has_free_answers else free_case_ids
        probes = probes_of(cases, free_ids)
        return self.prepare_probes(
            probes, max_new_tokens=max_new_tokens, source=source, answer_cache=answer_cache
        )

    @torch.no_grad()
    def prepare_probes(
        self,
        wanted: Sequence[CaseProbe],
        *,
        max_new_tokens: int = MAX_TARGET_TOKENS,
        source: StateSource | None = None,
        answer_cache: AnswerCache | None = None,
    ) -> PreparedCases:
        """`prepare` for some probes of cases."""
        probes = self._with_targets([item.probe for item in wanted], answer_cache)
        inputs = [probe_input(probe) for probe in probes]
        states = (source or BackboneStates(self.backbone)).states(inputs)
        forced = cached_answers(
            [UneditedQuery(item) for item in inputs],
            answer_cache,
            lambda index: self._unedited_ids([states[i] for i in index]),
        )
        free_answers: dict[int, str] = {}
        is_open: list[int] = []
        for i, item in enumerate(wanted):
            if item.has_free_answer:
                text = self._decided_answer(forced[i].token_ids, states[i], max_new_tokens)
                if text is None:
                    is_open.append(i)
                else:
                    free_answers[i] = text
        texts = self._free_answers([probes[i] for i in is_open], max_new_tokens, answer_cache)
        free_answers |= zip(is_open, texts, strict=True)
        prepared = [
            PreparedProbe(
                case_id=item.case.case_id,
                edit_id=item.case.edit.edit_id,
                probe_index=item.probe_index,
                kind=item.probe.kind,
                question=inputs[i],
                states=states[i],
                unedited_ids=forced[i].token_ids[:-1],
                unedited_answer=free_answers.get(i),
            )
            for i, item in enumerate(wanted)
        ]
        return PreparedCases(probes=tuple(prepared))

    def _with_targets(self, probes: Sequence[Probe], cache: AnswerCache | None) -> list[Probe]:
        """Locality probes without a target get the backbone's greedy answer as one."""
        filled = list(probes)
        missing = [i for i, probe in enumerate(probes) if not probe.target]
        texts = self._free_answers([probes[i] for i in missing], MAX_LOCALITY_TOKENS, cache)
        for i, text in zip(missing, texts, strict=True):
            filled[i] = replace(probes[i], target=text or "nothing")
        return filled

    def _free_answers(
        self, probes: Sequence[Probe], max_new_tokens: int, cache: AnswerCache | None
    ) -> list[str]:
        inputs = [replace(probe_input(probe), target="") for probe in probes]

        def compute(index: Sequence[int]) -> list[UneditedAnswer]:
            chosen = [inputs[i] for i in index]
            texts = self.backbone.generate(chosen, None, max_new_tokens=max_new_tokens)
            return [UneditedAnswer(text=text) for text in texts]

        queries = [UneditedQuery(item, max_new_tokens) for item in inputs]
        return [answer.text for answer in cached_answers(queries, cache, compute)]

    def _decided_answer(
        self, ids: Sequence[int], states: LayerStates, max_new_tokens: int
    ) -> str | None:
        """The greedy answer where it is the target or its beginning; None where it is another."""
        target_ids = states.target_ids_O.tolist()
        length = decided_length(ids, target_ids, self.backbone.end_id, max_new_tokens)
        return None if length is None else self.backbone.decode(target_ids[:length])

    def _unedited_ids(self, states: Sequence[LayerStates]) -> list[UneditedAnswer]:
        ids = self._argmax_ids(states, [None] * len(states))
        return [UneditedAnswer(token_ids=row) for row in ids]

    def _argmax_ids(
        self, states: Sequence[LayerStates], residuals: Sequence[Tensor | None]
    ) -> list[tuple[int, ...]]:
        """Argmax token at each target position and after the target, after the layers above
        l_e."""
        order = sorted(range(len(states)), key=lambda i: states[i].num_tokens)
        ids: list[tuple[int, ...]] = [()] * len(states)
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            batch = [states[i] for i in chosen]
            hidden_BTD = pad_hidden(batch).values_BSD
            for row, i in enumerate(chosen):
                added = residuals[i]
                if added is not None:
                    length = batch[row].num_tokens
                    hidden_BTD[row, :length] += added[:length]
            logits = self.backbone.target_logits(batch, hidden_BTD, has_end=True)
            for i, own in zip(chosen, logits, strict=True):
                ids[i] = tuple(own.argmax(-1).tolist())
        return ids


class CaseScorer(ProbePreparer):
    def __init__(self, editor: Editor, *, batch_size: int = 16) -> None:
        """Use the backbone and generator of an editor; its own repository plays no part."""
        super().__init__(editor.backbone, batch_size=batch_size)
        self.editor = editor
        self._texts: dict[EditedQuery, str] = {}
        self._ids: dict[EditedQuery, tuple[int, ...]] = {}

    @torch.no_grad()
    def score(
        self,
        prepared: PreparedCases,
        repository: ExpertRepository,
        *,
        protocols: Sequence[str] = (TEACHER_FORCED,),
        max_new_tokens: int = MAX_TARGET_TOKENS,
        facts_of: FactsOf | None = None,
    ) -> list[ProbeResult]:
        """Score all probes against a repository. Free generation is scored on the probes that were
        prepared with an unedited free answer. `facts_of` is the repository's own, if not given."""
        editor = self.editor.with_repository(repository)
        if facts_of is None and repository.fact_source is not None:
            facts_of = repository.fact_source.facts_of
        is_forced = TEACHER_FORCED in protocols
        probes = [p for p in prepared.probes if is_forced or p.unedited_answer is not None]
        if facts_of is not None and repository.forms:
            probes = self._hopped(editor, probes, facts_of)
        asked = self._ask(editor, probes, facts_of)
        results: list[ProbeResult] = []
        if is_forced:
            results += [
                teacher_forced_result(
                    one.probe,
                    one.ids[:-1] if one.routing.kept else one.probe.unedited_ids,
                    one.routing,
                    self.backbone.decode,
                )
                for one in asked
            ]
        if FREE_GENERATION in protocols:
            free = [one for one in asked if one.probe.unedited_answer is not None]
            results += self._score_free_generation(editor, free, max_new_tokens)
        return results

    def _hopped(
        self, editor: Editor, probes: Sequence[PreparedProbe], facts_of: FactsOf
    ) -> list[PreparedProbe]:
        """With the second question in place of each that two edits answer, and forms as named."""
        hops = hops_of_forms(editor, [probe.question for probe in probes], facts_of)
        named = list(probes)
        for i, hop in hops.items():
            states = replace(probes[i].states, form=hop.second.form)
            named[i] = replace(probes[i], question=hop.second, states=states)
        return self._with_states(named, {i: hop.second for i, hop in hops.items() if hop.first})

    def _with_states(
        self, probes: Sequence[PreparedProbe], asked: Mapping[int, BackboneInput]
    ) -> list[PreparedProbe]:
        """Probes of which some are asked as other inputs, which others of them may be too."""
        states = {_content(probe.question): probe.states for probe in probes}
        missing = {_content(item): item for item in asked.values()}
        missing = {key: item for key, item in missing.items() if key not in states}
        states |= zip(missing, self.backbone.encode(list(missing.values())), strict=True)
        found = list(probes)
        for i, item in asked.items():
            found[i] = replace(found[i], question=item, states=states[_content(item)])
        return found

    def _ask(
        self, editor: Editor, probes: Sequence[PreparedProbe], facts_of: FactsOf | None
    ) -> list[_Asked]:
        """Answers under teacher forcing; a question that keeps equal experts again is not asked
        again."""
        asked = [_Asked(probe, NOTHING_KEPT, ()) for probe in probes]
        again: dict[int, BackboneInput] = {}
        digests: dict[str, bytes] = {}
        clear_if_full(self._ids)
        for chosen in self._batches(editor, probes):
            states = [probes[i].states for i in chosen]
            routing = editor.route(states)
            kept = routing.kept_BN.any(1).nonzero().flatten().tolist()
            explained = editor.explain(routing) if kept else []
            routings = {row: explained[row] for row in kept}
            if facts_of is not None:
                routed = {chosen[row]: one for row, one in routings.items()}
                questions = {i: (probes[i].question, one) for i, one in routed.items()}
                again |= in_own_words(editor, questions, facts_of)
                routings = {row: one for row, one in routings.items() if chosen[row] not in again}
            digests |= matrix_digests(editor.repository, routings.values(), digests)
            keys = {
                row: EditedQuery.of(probes[chosen[row]].question, one, digests)
                for row, one in routings.items()
            }
            new = [row for row, key in keys.items() if key not in self._ids]
            residual = editor.residual(routing) if new else None
            if residual is not None:
                added_BTD = residual(pad_hidden(states).values_BSD)
                ids = self._argmax_ids([states[row] for row in new], [added_BTD[i] for i in new])
                self._ids |= zip([keys[row] for row in new], ids, strict=True)
            for row, key in keys.items():
                i = chosen[row]
                asked[i] = _Asked(probes[i], routings[row], self._ids[key])
        if again:
            others = self._with_states(probes, again)
            found = self._ask(editor, [others[i] for i in again], None)
            for i, one in zip(again, found, strict=True):
                asked[i] = one
        return asked

    def _score_free_generation(
        self,
        editor: Editor,
        asked: Sequence[_Asked],
        max_new_tokens: int,
    ) -> list[ProbeResult]:
        """Generate where an expert is kept and the teacher-forced pass leaves the answer open;
        elsewhere it is the unedited one. A question that keeps equal experts in another repository
        is not generated again."""
        probes = [one.probe for one in asked]
        texts = [probe.unedited_answer or "" for probe in probes]
        is_open: list[int] = []
        for i, one in enumerate(asked):
            if one.routing.kept:
                text = self._decided_answer(one.ids, one.probe.states, max_new_tokens)
                if text is None:
                    is_open.append(i)
                else:
                    texts[i] = text
        digests = matrix_digests(editor.repository, [asked[i].routing for i in is_open])
        keys = {
            i: EditedQuery.of(probes[i].question, asked[i].routing, digests, max_new_tokens)
            for i in is_open
        }
        clear_if_full(self._texts)
        new = [i for i, key in keys.items() if key not in self._texts]

        def route_once(index: Sequence[int], states: Sequence[LayerStates]) -> Residual | None:
            # The prepared hidden states, so that both protocols see the same experts.
            return editor.residual(editor.route([probes[new[j]].states for j in index]))

        generated = self.backbone.generate(
            [probes[i].question for i in new], route_once, max_new_tokens=max_new_tokens
        )
        self._texts |= dict(zip([keys[i] for i in new], generated, strict=True))
        texts = [self._texts[keys[i]] if i in keys else text for i, text in enumerate(texts)]
        return [
            free_generation_result(one.probe, text, one.routing)
            for text, one in zip(texts, asked, strict=True)
        ]

    def _batches(self, editor: Editor, probes: Sequence[PreparedProbe]) -> Iterable[list[int]]:
        """Positions of the probes that are routed, in batches of similar length."""
        seen = [i for i, probe in enumerate(probes) if editor.is_routed(probe.states)]
        order = sorted(seen, key=lambda i: probes[i].states.num_tokens)
        for start in range(0, len(order), self.batch_size):
            yield order[start : start + self.batch_size]
