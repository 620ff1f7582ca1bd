"""RECIPE: every edit becomes a short continuous prompt, retrieved where it is relevant.

    r_k = MLP_K(x_k)    knowledge: prompt and target of an edit
    r_q = MLP_Q(x_q)    query;  r_s = MLP_K(x_s): the knowledge sentinel, learned
    edit k = argmax r_q r_k precedes the question as P(r_k), if r_q r_k > r_q r_s

Chen et al., "Lifelong Knowledge Editing for LLMs with Retrieval-Augmented Continuous Prompt
Learning" (EMNLP 2024). Losses are reliability, generality, locality (KL), and three contrastive
ones: a query's own knowledge first; the sentinel above all other knowledge; for a locality query
the sentinel first. Three prompt tokens, as in the paper.

What differs. x is pooled (mean, largest, smallest) from hidden states of the frozen backbone at l_e
and, for knowledge, the target's input embeddings, with the image's feature; the paper fine-tunes
RoBERTa on the text alone. Prompts come before the question at l_e instead of the word embeddings.
Representations of 192 in place of 2048 numbers.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.baselines.protocol import EditorMemory, num_bytes
from liveedit_core.baselines.trained.features import QuestionFeatures
from liveedit_core.baselines.trained.prefixed import PrefixEditor, prefixed_logits
from liveedit_core.baselines.trained.rival import (
    CaseBatch,
    Figures,
    Rival,
    answer_loss,
    total_of,
)
from liveedit_core.baselines.trained.settings import RecipeConfig, RecipeTraining
from liveedit_core.schema import EditRequest
from liveedit_core.states import LayerStates
from liveedit_core.training.losses import locality_kl


class ResidualMlp(nn.Module):
    """A projection, and a layer that adds to it. Of thousands of inputs each is scaled down, not
    its weight, so that a step of Adam changes the output a little only."""

    def __init__(self, inputs: int, size: int) -> None:
        super().__init__()
        self.project = nn.Linear(inputs, size)
        nn.init.normal_(self.project.weight)
        self.add = nn.Linear(size, size)

    def forward(self, values: Tensor) -> Tensor:
        projected = self.project(values / math.sqrt(self.project.in_features))
        output: Tensor = projected + self.add(projected).relu()
        return output


def pooled(rows_SD: Tensor) -> Tensor:
    """Mean, largest and smallest over positions, [3 D]."""
    return torch.cat([rows_SD.mean(0), rows_SD.amax(0), rows_SD.amin(0)])


class Recipe(Rival):
    """Encoders of knowledge and queries, the sentinel, and the prompt generator."""

    name = "RECIPE"

    def __init__(self, config: RecipeTraining, backbone: VisionLanguageBackbone) -> None:
        super().__init__(backbone)
        self.config = config
        size, width = config.representation_size, backbone.hidden_size
        self.features = QuestionFeatures(backbone)
        self.target_norm = nn.LayerNorm(3 * width)
        self.knowledge = ResidualMlp(self.features.size + 3 * width, size)
        self.query = ResidualMlp(self.features.size, size)
        self.sentinel_X = nn.Parameter(torch.randn(self.features.size + 3 * width) * 0.1)
        self.prompt_hidden = nn.Linear(size, size)
        self.prompt_out = nn.Linear(size, config.num_prompt_tokens * width)

    def knowledge_of(self, states: Sequence[LayerStates]) -> Tensor:
        """r_k of edits, [B, M]."""
        targets = torch.stack([pooled(state.target_embeddings_OD) for state in states])
        rows_BX = torch.cat([self.features(states), self.target_norm(targets)], dim=-1)
        known: Tensor = self.knowledge(rows_BX)
        return known

    def query_of(self, states: Sequence[LayerStates]) -> Tensor:
        """r_q of questions, [B, M]."""
        asked: Tensor = self.query(self.features(states))
        return asked

    @property
    def sentinel_M(self) -> Tensor:
        """r_s."""
        known: Tensor = self.knowledge(self.sentinel_X)
        return known

    def prompts_of(self, knowledge_BM: Tensor) -> Tensor:
        """Continuous prompts, [B, K, D]."""
        hidden_BM = knowledge_BM + self.prompt_hidden(knowledge_BM).relu()
        prompts: Tensor = self.prompt_out(hidden_BM)
        return prompts.reshape(len(prompts), self.config.num_prompt_tokens, -1)

    def similarity(self, queries_BM: Tensor, knowledge_NM: Tensor) -> Tensor:
        """[B, N]."""
        return queries_BM @ knowledge_NM.T / math.sqrt(self.config.representation_size)

    def observe(self, batch: CaseBatch) -> None:
        self.features.observe([*batch.own, *batch.unrelated])

    def loss(self, batch: CaseBatch) -> tuple[Tensor, Figures]:
        knowledge_BM = self.knowledge_of(batch.edits)
        prompts = list(self.prompts_of(knowledge_BM))
        own = prefixed_logits(self.backbone, batch.own, prompts, has_end=True)
        unrelated = prefixed_logits(self.backbone, batch.unrelated, prompts)
        weight = self.config.contrast_weight
        return total_of(
            {
                "edit": answer_loss(own, batch.own, self.backbone.end_id),
                "locality": locality_kl(unrelated, self.unedited_logits(batch.unrelated)),
                "contrast": weight * self._contrast(batch, knowledge_BM),
            }
        )

    def _contrast(self, batch: CaseBatch, knowledge_BM: Tensor) -> Tensor:
        size = len(knowledge_BM)
        with_sentinel_CM = torch.cat([knowledge_BM, self.sentinel_M[None]])
        own_BC = self.similarity(self.query_of(batch.own), with_sentinel_CM)
        unrelated_BC = self.similarity(self.query_of(batch.unrelated), with_sentinel_CM)
        own_B = torch.arange(size, device=own_BC.device)
        last_B = torch.full_like(own_B, size)
        is_own_BC = torch.eye(size, size + 1, dtype=torch.bool, device=own_BC.device)
        without_own_BC = own_BC.masked_fill(is_own_BC, float("-inf"))
        return (
            functional.cross_entropy(own_BC, own_B)
            + functional.cross_entropy(without_own_BC, last_B)
            + functional.cross_entropy(unrelated_BC, last_B)
        )


class RecipeEditor(PrefixEditor):
    """A backbone with a repository of knowledge and its continuous prompts."""

    name = "RECIPE"

    def __init__(
        self,
        backbone: VisionLanguageBackbone,
        rival: Recipe,
        config: RecipeConfig,
        *,
        batch_size: int = 16,
    ) -> None:
        self.rival = rival
        self.config = config
        own = list(backbone.decoder.layers)[backbone.edit_layer + 1 :]
        super().__init__(backbone, own, batch_size=batch_size)

    def restore(self) -> None:
        self.knowledge_NM = torch.zeros(0, self.rival.config.representation_size)
        self.prompts: list[Tensor] = []

    @torch.no_grad()
    def teach(self, requests: Sequence[EditRequest], states: Sequence[LayerStates]) -> None:
        knowledge_BM = self.rival.knowledge_of(states)
        self.knowledge_NM = torch.cat([self.knowledge_NM.to(knowledge_BM), knowledge_BM])
        self.prompts += list(self.rival.prompts_of(knowledge_BM))

    @torch.no_grad()
    def prefix_of(self, state: LayerStates) -> Tensor | None:
        if not self.prompts:
            return None
        query_1M = self.rival.query_of([state])
        best, place = self.rival.similarity(query_1M, self.knowledge_NM)[0].max(0)
        threshold = self.rival.similarity(query_1M, self.rival.sentinel_M[None])[0, 0]
        is_found = float(best - threshold) > self.config.sentinel_margin
        return self.prompts[int(place)] if is_found else None

    def memory(self) -> EditorMemory:
        """Fixed: the trained part. Stored: representation and prompt of each edit."""
        return EditorMemory(
            fixed_bytes=num_bytes([*self.rival.parameters(), *self.rival.buffers()]),
            stored_bytes=num_bytes([self.knowledge_NM, *self.prompts]),
        )
