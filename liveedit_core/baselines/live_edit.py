"""LiveEdit itself, with the interface of the editors that it is compared with."""

from collections.abc import Sequence

from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.baselines.protocol import ComparedEditor, EditorMemory, num_bytes
from liveedit_core.evaluation.probes import PreparedCases, ProbeResult
from liveedit_core.evaluation.scoring import CaseScorer
from liveedit_core.hops import hopped
from liveedit_core.method.editor import Editor
from liveedit_core.replacing import KnownFacts, Plan, plan_edits
from liveedit_core.schema import EditRequest
from liveedit_core.states import LayerStates


class LiveEdit(ComparedEditor):
    """An editor whose repository grows with each edit."""

    name = "LiveEdit"

    def __init__(self, editor: Editor, *, batch_size: int = 16) -> None:
        self.editor = editor
        self.scorer = CaseScorer(editor, batch_size=batch_size)
        self._untaught = editor
        self._facts = KnownFacts()

    def teach(self, requests: Sequence[EditRequest], states: Sequence[LayerStates]) -> None:
        plan = plan_edits(self.editor, requests, self._facts, states)
        self.editor = only_held(self.editor.with_edits(requests, states), plan)
        self._facts.add({key: plan.facts[key] for key in plan.requests})

    def restore(self) -> None:
        self.editor = self._untaught
        self._facts = KnownFacts()

    def answer(self, inputs: Sequence[BackboneInput], max_new_tokens: int) -> list[str]:
        asked, _ = hopped(self.editor, inputs, self._facts.facts_of)
        router = self.editor.router()
        return self.editor.backbone.generate(asked, router, max_new_tokens=max_new_tokens)

    def score(
        self, prepared: PreparedCases, *, protocols: Sequence[str], max_new_tokens: int
    ) -> list[ProbeResult]:
        return self.scorer.score(
            prepared,
            self.editor.repository,
            protocols=protocols,
            max_new_tokens=max_new_tokens,
            facts_of=self._facts.facts_of,
        )

    def memory(self) -> EditorMemory:
        """Fixed: the generator. Stored: features and matrices of each expert."""
        generator, stored = self.editor.generator, self.editor.repository
        features = (stored.visual_features_NK, stored.prompt_features_NK)
        return EditorMemory(
            fixed_bytes=num_bytes([*generator.parameters(), *generator.buffers()]),
            stored_bytes=num_bytes([*features, stored.down_LD, stored.up_LD]),
        )


def only_held(editor: Editor, plan: Plan) -> Editor:
    """The same engine without the edits that others corrected."""
    edit_ids = editor.repository.edit_ids
    held = [n for n, edit_id in enumerate(edit_ids) if plan.is_held(edit_id)]
    return editor.with_repository(editor.repository.take(held))
