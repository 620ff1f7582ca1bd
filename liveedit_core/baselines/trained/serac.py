"""SERAC: edits in a memory, a classifier of their scope, and a counterfactual model.

    p(x, e) = sigmoid(offset - scale * |f(x) - f(e)|^2)      scope classifier, Linear f
    best p >= 1/2   the counterfactual model, which reads the edit before the question
    else            the backbone

Mitchell et al., "Memory-Based Model Editing at Scale" (ICML 2022), Sections 3.1 and 3.2: the
embedding classifier is trained by binary cross-entropy, the counterfactual model by the likelihood
of the target in scope; neither sees the edited model.

What differs. The classifier reads features of the frozen backbone (image, and mean direction of the
prompt's hidden states), not a language model of its own. The counterfactual model is the backbone's
layers after l_e with adapters of its own, which read the edit's prompt and target as hidden states;
the paper takes a smaller pretrained model, EasyEdit OPT-125M: there is none below the built-in one.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.baselines.protocol import EditorMemory, num_bytes
from liveedit_core.baselines.trained.adapters import attention_changes, changed_layers
from liveedit_core.baselines.trained.features import EditReader, QuestionFeatures
from liveedit_core.baselines.trained.prefixed import PrefixEditor, prefixed_logits
from liveedit_core.baselines.trained.rival import (
    CaseBatch,
    Figures,
    Rival,
    answer_loss,
    total_of,
)
from liveedit_core.baselines.trained.settings import SeracConfig, SeracTraining
from liveedit_core.schema import EditRequest
from liveedit_core.states import LayerStates


class Serac(Rival):
    """Scope classifier and counterfactual model."""

    name = "SERAC"

    def __init__(self, config: SeracTraining, backbone: VisionLanguageBackbone) -> None:
        super().__init__(backbone)
        self.features = QuestionFeatures(backbone)
        self.embed = nn.Linear(self.features.size, config.embedding_size)
        self.offset = nn.Parameter(torch.tensor(3.0))
        self.log_scale = nn.Parameter(torch.tensor(0.0))
        self.reader = EditReader(backbone.hidden_size)
        own = list(backbone.decoder.layers)[backbone.edit_layer + 1 :]
        self.changes = attention_changes(own, config.rank, self.name)

    def layers(self) -> list[nn.Module]:
        """Of the counterfactual model, after l_e."""
        own = list(self.backbone.decoder.layers)[self.backbone.edit_layer + 1 :]
        return changed_layers(own, self.changes)

    def embedding(self, states: Sequence[LayerStates]) -> Tensor:
        """f, of norm 1, [B, M]."""
        embedded: Tensor = functional.normalize(self.embed(self.features(states)), dim=-1)
        return embedded

    def scope(self, questions_BM: Tensor, edits_NM: Tensor) -> Tensor:
        """Logits that questions are in the scope of edits, [B, N]."""
        distance_BN = 2 - 2 * questions_BM @ edits_NM.T
        return self.offset - (self.log_scale.exp() * distance_BN) * 10

    def observe(self, batch: CaseBatch) -> None:
        self.features.observe([*batch.own, *batch.unrelated])

    def loss(self, batch: CaseBatch) -> tuple[Tensor, Figures]:
        edits_BM = self.embedding(batch.edits)
        own_BB = self.scope(self.embedding(batch.own), edits_BM)
        unrelated_BB = self.scope(self.embedding(batch.unrelated), edits_BM)
        truth_BB = torch.eye(len(edits_BM), device=edits_BM.device)
        positive = functional.softplus(-own_BB.diagonal()).mean()
        others = functional.softplus(own_BB)[truth_BB == 0].mean()
        negative = functional.softplus(unrelated_BB.diagonal()).mean()
        edited = self.backbone.with_layers(self.backbone.edit_layer + 1, self.layers())
        prefixes = [self.reader(state) for state in batch.edits]
        logits = prefixed_logits(edited, batch.own, prefixes, has_end=True)
        return total_of(
            {
                "answer": answer_loss(logits, batch.own, edited.end_id),
                "in_scope": positive,
                "out_of_scope": (others + negative) / 2,
            }
        )


class SeracEditor(PrefixEditor):
    """A backbone beside a memory of edits."""

    name = "SERAC"

    def __init__(
        self,
        backbone: VisionLanguageBackbone,
        rival: Serac,
        config: SeracConfig,
        *,
        batch_size: int = 16,
    ) -> None:
        self.rival = rival
        self.config = config
        super().__init__(backbone, rival.layers(), batch_size=batch_size)

    def restore(self) -> None:
        self.embeddings_NM = torch.zeros(0, self.rival.embed.out_features)
        self.prefixes: list[Tensor] = []

    @torch.no_grad()
    def teach(self, requests: Sequence[EditRequest], states: Sequence[LayerStates]) -> None:
        embedded_BM = self.rival.embedding(states)
        self.embeddings_NM = torch.cat([self.embeddings_NM.to(embedded_BM), embedded_BM])
        self.prefixes += [self.rival.reader(state) for state in states]

    @torch.no_grad()
    def prefix_of(self, state: LayerStates) -> Tensor | None:
        if not self.prefixes:
            return None
        scope_1N = self.rival.scope(self.rival.embedding([state]), self.embeddings_NM).sigmoid()
        best, place = scope_1N[0].max(0)
        return self.prefixes[int(place)] if float(best) >= self.config.least_scope else None

    def memory(self) -> EditorMemory:
        """Fixed: the trained part. Stored: embedding and hidden states of each edit."""
        return EditorMemory(
            fixed_bytes=num_bytes([*self.rival.parameters(), *self.rival.buffers()]),
            stored_bytes=num_bytes([self.embeddings_NM, *self.prefixes]),
        )
