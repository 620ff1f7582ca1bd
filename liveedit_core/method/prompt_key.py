"""The prompt key: which edits are meant by this wording, from embeddings of the bare prompt.

With `prompt_source = "sentences"` it replaces the prompt half of Eq. 4: frozen sentence encoders
read the prompt (`backbones/prompt_encoder.py`). An embedding depends on the wording alone, so that
both sides of one wording are equal. As in the visual key, a linear discriminant maps it to a
direction:

    sim(q, e) = scale * (cos(q, e) - h(q) - h(e) - offset + b(e))

e is the mean direction of all wordings that the edit was given. h(x) is how common x is: a share
of its mean cosine with the nearest anchors, the questions that the key was fitted on (Conneau et
al., ICLR 2018). b(e) is the smallest number >= 0 with which each own wording reaches
`OWN_SIMILARITY`: an edit never refuses its own prompt, in whatever language. Positive similarity
passes the gate (`min_gate` 0.5). The correction takes two numbers of each feature: q' = [q, 1,
-offset - h(q)], e' = [e, b(e) - h(e), 1].

The discriminant keeps what is asked and drops of whom, which the image says. A textual edit has no
image, so its gate compares t instead, the embedding as it is, and is stricter:

    sim(q, e) = TEXT_SCALE * (cos(t(q), t(e)) - TEXT_OFFSET + b(e))

For it t follows in the feature: q' = [..., t(q)], and e' = [0, b(e) - TEXT_OFFSET, 0, t(e)] of a
textual edit, [e, b(e) - h(e), 1, 0] of others.

An expert may have forms: further slots that answer what follows from its fact (`forms`). Which of
them a question asks for is told by t too, in log-odds against a plain question:

    logit_f(q) = <t(q), key_f> + bias_f,   0 of the plain slots
    share_f(q) = softmax_f(logit(q))       of the expert's weight
    sim'(q, e) = sim(q, e) + logsumexp_f(logit_f(q))

So each form passes the gate and is weighed as if it were an edit of similarity sim + logit_f.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from liveedit_core.method.config import GeneratorConfig
from liveedit_core.method.visual_key import padded_feature

OWN_SIMILARITY = 8.0
"""Of every own wording, at least."""
NEAREST_ANCHORS = 20
ANCHOR_WEIGHT = 0.4
"""Both chosen by cross-validation over the families of questions (METHOD.md)."""
TEXT_SCALE = 50.0
TEXT_OFFSET = 0.8
"""Chosen on made-up facts (METHOD.md)."""
TEXT_OWN_SIMILARITY = 4.0
"""`OWN_SIMILARITY` of textual edits: sigmoid(4) = 0.98, for a gate that further wordings open less
wide."""


def commonness(unit_XR: Tensor, anchors_SR: Tensor) -> Tensor:
    """h of unit vectors, [X, 1]; 0 without anchors."""
    if not len(anchors_SR):
        return unit_XR.new_zeros(len(unit_XR), 1)
    cosines_XS = unit_XR @ anchors_SR.T
    nearest_XK = cosines_XS.topk(min(NEAREST_ANCHORS, len(anchors_SR)), dim=-1).values
    return ANCHOR_WEIGHT * nearest_XK.mean(-1, keepdim=True)


class PromptKey(nn.Module):
    """Prompt features of both sides from embeddings; `prompt_key_fit` computes its weights."""

    mean: Tensor
    deviation: Tensor
    anchors: Tensor
    log_scale: Tensor
    offset: Tensor

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.shape = (config.num_queries, config.module_dim)
        self.text_size = config.text_size
        self.register_buffer("mean", torch.zeros(config.prompt_size))
        self.register_buffer("deviation", torch.ones(config.prompt_size))
        self.projection = nn.Linear(config.prompt_size, config.prompt_rank, bias=False)
        anchors_SR = torch.zeros(config.prompt_anchors, config.prompt_rank)
        self.register_buffer("anchors", anchors_SR, persistent=len(anchors_SR) > 0)
        # Buffers: no gradient reaches them, and DeepSpeed cannot shard scalars.
        self.register_buffer("log_scale", torch.tensor(0.0))
        self.register_buffer("offset", torch.tensor(0.0))

    def forward(
        self,
        embeddings: Sequence[Tensor],
        *,
        is_edit: bool,
        is_textual: Sequence[bool] | None = None,
    ) -> Tensor:
        """[B, Q, M] of the embeddings [W, P] of each edit's wordings, or of each input's prompt;
        `is_textual` (None: never) says which edits have no image."""
        counts = [len(wordings_WP) for wordings_WP in embeddings]
        given_XP = torch.cat(list(embeddings))
        scaled_XP = (given_XP - self.mean) / self.deviation
        unit_XR = functional.normalize(self.projection(scaled_XP), dim=-1)
        scale, one_X1 = self.log_scale.exp(), torch.ones_like(unit_XR[:, :1])
        if not is_edit:
            common_X1 = commonness(unit_XR, self.anchors)
            parts = (unit_XR, one_X1, -self.offset - common_X1, self.text(given_XP))
            return padded_feature(torch.cat(parts, dim=-1), scale, self.shape)
        shown = _with_bonus(unit_XR, counts, OWN_SIMILARITY / scale, self.offset, self.anchors)
        feature_BX = torch.cat([*shown, torch.ones_like(shown[1])], dim=-1)
        if is_textual is not None and any(is_textual):
            own = TEXT_OWN_SIMILARITY / TEXT_SCALE
            text_XS = self.text(given_XP)
            text_BS, bonus_B1 = _with_bonus(text_XS, counts, own, TEXT_OFFSET, text_XS[:0])
            zero_BR, zero_B1 = torch.zeros_like(shown[0]), torch.zeros_like(bonus_B1)
            textual_BX = torch.cat([zero_BR, bonus_B1 - TEXT_OFFSET, zero_B1, text_BS], dim=-1)
            shown_BX = functional.pad(feature_BX, (0, self.text_size))
            is_textual_B1 = torch.tensor(is_textual, device=text_BS.device)[:, None]
            feature_BX = torch.where(is_textual_B1, TEXT_SCALE / scale * textual_BX, shown_BX)
        return padded_feature(feature_BX, scale, self.shape)

    def text(self, given_XP: Tensor) -> Tensor:
        """t of embeddings, unit vectors [X, text_size]."""
        if not self.text_size:
            return given_XP[:, :0]
        padded_XS = functional.pad(given_XP, (0, -given_XP.shape[1] % self.text_size))
        return functional.normalize(padded_XS.unflatten(-1, (-1, self.text_size)).sum(1), dim=-1)

    def text_of(self, asked_BQM: Tensor) -> Tensor:
        """t of the questions with some features; zeros of a feature that is zero."""
        start = self.projection.out_features + 2
        stored_BS = asked_BQM.flatten(1)[:, start : start + self.text_size]
        return functional.normalize(stored_BS, dim=-1)

    def as_asked(self, stored_BK: Tensor) -> Tensor:
        """Features [B, Q, M] of questions in the words of some edits, from what is stored of these
        (flattened)."""
        rank = self.projection.out_features
        length_B1 = stored_BK[:, rank + 1 : rank + 2]
        asked_BK = torch.zeros_like(stored_BK)
        asked_BK[:, :rank] = stored_BK[:, :rank]
        asked_BK[:, rank : rank + 1] = length_B1
        unit_BR = functional.normalize(stored_BK[:, :rank], dim=-1)
        common_B1 = commonness(unit_BR, self.anchors)
        asked_BK[:, rank + 1 : rank + 2] = -(self.offset + common_B1) * length_B1
        return asked_BK.reshape(-1, *self.shape)


def form_row(num_slots: int, bias: float, key_S: Tensor) -> Tensor:
    """What is stored of a form, [2 + S]."""
    return torch.cat([key_S.new_tensor([num_slots, bias]), key_S])


def form_logits(text_BS: Tensor, forms_FX: Tensor) -> Tensor:
    """Of questions with some t, [B, 1 + F], the plain one first."""
    logits_BF = text_BS @ forms_FX[:, 2:].T + forms_FX[:, 1]
    return functional.pad(logits_BF, (1, 0))


def form_slots(forms_FX: Tensor, rank: int) -> tuple[int, ...]:
    """How many slots of an expert of some rank are plain, and of each form."""
    of_forms = [int(number) for number in forms_FX[:, 0].tolist()]
    return (rank - sum(of_forms), *of_forms)


def _with_bonus(
    unit_XR: Tensor,
    counts: Sequence[int],
    own: float | Tensor,
    offset: float | Tensor,
    anchors_SR: Tensor,
) -> tuple[Tensor, Tensor]:
    """Mean directions e of the wordings of each edit, [B, R], and b(e) - h(e), with which each of
    them reaches `own` or more."""
    means = [unit_WR.mean(0) for unit_WR in unit_XR.split(counts)]
    edit_BR = functional.normalize(torch.stack(means), dim=-1)
    common_B1 = commonness(edit_BR, anchors_SR)
    repeats = torch.tensor(counts, device=edit_BR.device)
    own_XR, of_own_X1 = (part.repeat_interleave(repeats, dim=0) for part in (edit_BR, common_B1))
    cosine_X1 = (unit_XR * own_XR).sum(-1, keepdim=True)
    reached_X1 = cosine_X1 - commonness(unit_XR, anchors_SR) - of_own_X1 - offset
    missing_X1 = (own - reached_X1).clamp(min=0)
    bonus_B1 = torch.stack([part.max(0).values for part in missing_X1.split(counts)])
    return edit_BR, bonus_B1 - common_B1
