"""Lookup: LiveEdit's router, then the stored target as it is, in place of an expert.

    best weight > 1/2   the target of that edit, verbatim
    else                the unedited answer

What an expert has to beat: where the router finds the edit, its target cannot be said better than
verbatim. Lookup cannot answer what is not a target: yes or no about a fact, the fact in another
language or inside a sentence, a question composed with another fact.

Under teacher forcing an answer is the stored target's tokens, which are compared with those that
are expected position by position; where one is longer, it is wrong there.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.baselines.live_edit import only_held
from liveedit_core.baselines.protocol import (
    ComparedEditor,
    EditorMemory,
    batches_by_length,
    num_bytes,
)
from liveedit_core.evaluation.probes import (
    FREE_GENERATION,
    TEACHER_FORCED,
    PreparedCases,
    ProbeResult,
    free_generation_result,
    teacher_forced_result,
)
from liveedit_core.hops import LEAST_WEIGHT
from liveedit_core.method.editor import NOTHING_KEPT, Editor, Routing
from liveedit_core.method.repository import ExpertRepository, textual_rows
from liveedit_core.replacing import KnownFacts, plan_edits
from liveedit_core.schema import EditRequest
from liveedit_core.states import LayerStates


class Lookup(ComparedEditor):
    """Routing features and targets of edits; the editor's own experts play no part."""

    name = "lookup"

    def __init__(self, editor: Editor, *, batch_size: int = 16) -> None:
        self.batch_size = batch_size
        self._untaught = editor
        self.restore()

    def restore(self) -> None:
        self.editor = self._untaught.with_repository(
            ExpertRepository.empty(self._untaught.generator.config)
        )
        self.targets: dict[str, tuple[str, tuple[int, ...]]] = {}
        self._facts = KnownFacts()

    @torch.no_grad()
    def teach(self, requests: Sequence[EditRequest], states: Sequence[LayerStates]) -> None:
        plan = plan_edits(self.editor, requests, self._facts, states)
        self._facts.add({key: plan.facts[key] for key in plan.requests})
        features = self.editor.generator.edit_features(states)
        stored = self.editor.repository
        edit_ids = (*stored.edit_ids, *(request.edit_id for request in requests))
        visual_BK = features.visual_BQM.flatten(1).float()
        prompt_BK = features.prompt_BQM.flatten(1).float()
        visual_NK = torch.cat([stored.visual_features_NK, visual_BK])
        taught = self.editor.with_repository(
            replace(
                stored,
                edit_ids=edit_ids,
                visual=visual_NK,
                prompt=torch.cat([stored.prompt_features_NK, prompt_BK]),
                is_textual_N=textual_rows(visual_NK),
                ranks_N=torch.zeros(len(edit_ids), dtype=torch.int64),
            )
        )
        self.editor = only_held(taught, plan)
        for request, state in zip(requests, states, strict=True):
            self.targets[request.edit_id] = request.target, tuple(state.target_ids_O.tolist())

    def routings(self, states: Sequence[LayerStates]) -> list[Routing]:
        """As LiveEdit routes."""
        found = [NOTHING_KEPT] * len(states)
        seen = [i for i, state in enumerate(states) if self.editor.is_routed(state)]
        for batch in batches_by_length([states[i].num_tokens for i in seen], self.batch_size):
            chosen = [seen[i] for i in batch]
            routing = self.editor.route([states[i] for i in chosen])
            for i, explained in zip(chosen, self.editor.explain(routing), strict=True):
                found[i] = explained
        return found

    def answering(self, routing: Routing) -> str | None:
        """The edit that answers, if there is one."""
        is_found = bool(routing.kept) and routing.weights[0] > LEAST_WEIGHT
        return routing.kept[0] if is_found else None

    def answer(self, inputs: Sequence[BackboneInput], max_new_tokens: int) -> list[str]:
        backbone = self.editor.backbone
        texts: dict[int, str] = {}
        if self.targets:
            states = backbone.encode([replace(item, target="") for item in inputs])
            for i, routing in enumerate(self.routings(states)):
                if (edit_id := self.answering(routing)) is not None:
                    texts[i] = self.targets[edit_id][0]
        others = [i for i in range(len(inputs)) if i not in texts]
        generated = backbone.generate(
            [inputs[i] for i in others], None, max_new_tokens=max_new_tokens
        )
        texts |= dict(zip(others, generated, strict=True))
        return [texts[i] for i in range(len(inputs))]

    def score(
        self, prepared: PreparedCases, *, protocols: Sequence[str], max_new_tokens: int
    ) -> list[ProbeResult]:
        probes = prepared.probes
        routings = self.routings([probe.states for probe in probes])
        forced: list[ProbeResult] = []
        free: list[ProbeResult] = []
        for probe, routing in zip(probes, routings, strict=True):
            edit_id = self.answering(routing)
            text, ids = self.targets[edit_id] if edit_id else ("", probe.unedited_ids)
            if TEACHER_FORCED in protocols:
                decode = self.editor.backbone.decode
                forced.append(teacher_forced_result(probe, ids, routing, decode))
            if FREE_GENERATION in protocols and probe.unedited_answer is not None:
                said = text if edit_id else probe.unedited_answer
                free.append(free_generation_result(probe, said, routing))
        return forced + free

    def memory(self) -> EditorMemory:
        """Fixed: the generator but for what writes matrices. Stored: features and targets."""
        generator, stored = self.editor.generator, self.editor.repository
        writers = (generator.down_generator, generator.up_generator, generator.hidden_norm)
        written = num_bytes(part for writer in writers for part in writer.parameters())
        whole = num_bytes([*generator.parameters(), *generator.buffers()])
        texts = sum(len(text.encode()) + 8 * len(ids) for text, ids in self.targets.values())
        features = num_bytes([stored.visual_features_NK, stored.prompt_features_NK])
        return EditorMemory(fixed_bytes=whole - written, stored_bytes=features + texts)
