"""Verifies an expert on its own questions, and refines it until it answers them.

    route the questions of the edit against its expert alone -> dropped: weak ("filter", "gate")
    teacher-forced answer, end token included                -> exact with a margin: verified
    steps on the two matrices, through the layers after l_e  -> refined, or weak ("text")

Whether a question means the edit is for the gate to say; the expert must answer it in whatever
words. So the steps, from the second on, count an unlike question about the image too, as if its
answer were the same.

An outcome depends on its edit alone, bit for bit: each edit is computed apart (`backbones.apart`),
as a padded batch rounds differently with other neighbours.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from liveedit_core.backbones.apart import EditedStates, encode_apart, logits_apart
from liveedit_core.backbones.protocol import Backbone, BackboneInput
from liveedit_core.method.config import RefineSection
from liveedit_core.method.expert import Expert
from liveedit_core.method.generator import LiveEditGenerator
from liveedit_core.method.routing import route, slot_residual
from liveedit_core.outcome import WeakReason, WriteOutcome
from liveedit_core.states import LayerStates

MARGIN = 4.0
"""By how much the logit of each target token, and of the end, must exceed all others."""
UNLIKE_MARGIN = 1.0
"""The same for the unlike question."""
NOISE = 0.25
"""More than another padding or rounding changes a margin; after the last step it suffices."""
AIM = 1.5
"""Steps aim at margins that are larger by this."""
RIDGE = 0.03
"""Added to the second moment of activations, as a share of its mean diagonal."""
LONGEST_STEP = 0.2
"""As a share of the length of hidden states; most are below a tenth. What needs more is not near
enough to be linear: there Adam takes the step."""
LEARNING_RATE = 0.02
VERIFIED_AT_ONCE = 8
"""Experts whose first answers are computed together."""
NOTHING = 1e-12
UNLIKE_QUESTIONS = (
    "Which thing does this picture show?",
    "How many pages does it have?",
    "At which place does it stand?",
    "Who operates this object?",
    "How long does the battery last?",
    "In which room is the meeting?",
    "I'd like to know how it behaves with strangers.",
    "Why does it have such an odd name?",
    "what food goes well with this",
    "Name the city the picture belongs to.",
    "Could you please tell me what triggers the alarm?",
    "Is that thing sweet or sour?",
    "It has been howling for ten minutes. What made it start?",
    "Until when does the offer run?",
    "From whom must this creature hide?",
    "Which cut of meat is it?",
)
"""One is chosen for each edit by its id."""


@dataclass(frozen=True)
class Question:
    """A wording of an edit, with the weight that routing gives the edit's expert alone."""

    states: LayerStates
    """Teacher-forced."""
    weight: float
    """0 if the expert is dropped."""


class Draft(NamedTuple):
    """An expert as it was written, and what it must answer."""

    expert: Expert
    edit: BackboneInput
    questions: list[Question]
    dropped: WeakReason
    """Why the expert is dropped for one of them."""


@dataclass(frozen=True)
class Answer:
    """The teacher-forced answer to a question."""

    logits_OV: Tensor
    """At the target tokens and the end."""
    label_O: Tensor

    def loss(self, margin: float) -> Tensor:
        """Mean cross-entropy if right tokens had less by a margin, it is large until they lead
        by that."""
        index_O1 = self.label_O[:, None]
        less_O1 = self.logits_OV.new_full(index_O1.shape, -margin)
        return functional.cross_entropy(
            self.logits_OV.scatter_add(1, index_O1, less_O1), self.label_O
        )

    @property
    def margin(self) -> float:
        """Smallest lead of a right token over all others; below 0: the answer is wrong."""
        index_O1 = self.label_O[:, None]
        right_O = self.logits_OV.gather(1, index_O1)[:, 0]
        others_O = self.logits_OV.scatter(1, index_O1, -torch.inf).amax(1)
        return float((right_O - others_O).min())

    @property
    def token_ids(self) -> list[int]:
        """Most probable tokens."""
        return self.logits_OV.argmax(-1).tolist()


class Refiner:
    """Verifies and refines experts with the layers after l_e of a backbone.

    Processes that share these layers must run them equally often: `is_any` tells whether a flag is
    set in one of them.
    """

    def __init__(
        self,
        backbone: Backbone,
        generator: LiveEditGenerator,
        *,
        max_steps: int,
        is_any: Callable[[bool], bool] = bool,
        is_routed: bool = True,
        has_unlike: bool = True,
        margin: float | None = None,
    ) -> None:
        """Without `is_routed`, experts have full weight, whatever their features; `margin` is
        `MARGIN` unless it is given."""
        self.backbone = backbone
        self.generator = generator
        self.max_steps = max_steps
        self.seconds = 0.0
        """Spent in `refine` so far."""
        self.is_any = is_any
        self.is_routed = is_routed
        self.has_unlike = has_unlike
        """Whether the steps count an unlike question."""
        self.margin = MARGIN if margin is None else margin

    @torch.no_grad()
    def refine(
        self,
        experts: Sequence[Expert],
        edits: Sequence[BackboneInput],
        states: Sequence[LayerStates],
    ) -> list[Expert]:
        """The experts with their outcomes; `states` are those of the edits, teacher-forced."""
        start_s = time.perf_counter()
        done: list[Expert] = []
        for start in range(0, len(experts), VERIFIED_AT_ONCE):
            together = slice(start, start + VERIFIED_AT_ONCE)
            drafts = [
                self._draft(*part)
                for part in zip(experts[together], edits[together], states[together], strict=True)
            ]
            first = self._first_answers(drafts)
            parts = zip(drafts, first, self._unlike(drafts, first), strict=True)
            done += [self._refined(*part) for part in parts]
        self.seconds += time.perf_counter() - start_s
        return done

    def _draft(self, expert: Expert, edit: BackboneInput, own: LayerStates) -> Draft:
        wordings = self._wordings(edit, own)
        return Draft(expert, edit, *self._routed(expert, wordings))

    def _first_answers(self, drafts: Sequence[Draft]) -> list[list[Answer]]:
        """Of experts as they were written, without gradients; each draft's are computed apart."""
        groups = []
        for draft in drafts:
            states = [question.states for question in draft.questions]
            edited = self._edited(draft.questions, draft.expert.down_RD, draft.expert.up_RD)
            groups.append([EditedStates(*pair) for pair in zip(states, edited, strict=True)])
        found = logits_apart(self.backbone, groups)
        return [
            [self._answer(*pair) for pair in zip(draft.questions, logits, strict=True)]
            for draft, logits in zip(drafts, found, strict=True)
        ]

    def _unlike(
        self, drafts: Sequence[Draft], first: Sequence[list[Answer]]
    ) -> list[list[Question]]:
        """The unlike question of each expert that takes steps, encoded together."""
        if not self.has_unlike or not self.max_steps:
            return [[] for _ in drafts]
        is_stepping = [
            self.is_any(not draft.dropped and _worst(answers).margin < self.margin)
            for draft, answers in zip(drafts, first, strict=True)
        ]
        asked = [
            _with_prompt(draft.edit, unlike_question(draft.expert.edit_id))
            for draft in compress(drafts, is_stepping)
        ]
        states = iter(encode_apart(self.backbone, asked))
        return [[Question(next(states), weight=1.0)] if steps else [] for steps in is_stepping]

    def _wordings(self, edit: BackboneInput, own: LayerStates) -> list[LayerStates]:
        """The edit as a question in its own words, then in the others."""
        states, others = [own], list(edit.also_asked)
        while self.is_any(bool(others)):
            # Without others its own words: processes that share a model run it equally often.
            encoded = self._encoded(edit, others[0] if others else edit.prompt)
            states += [encoded] if others else []
            del others[:1]
        return states

    def _encoded(self, edit: BackboneInput, prompt: str) -> LayerStates:
        """The edit with another prompt."""
        (state,) = self.backbone.encode([_with_prompt(edit, prompt)])
        return state

    def _routed(
        self, expert: Expert, states: Sequence[LayerStates]
    ) -> tuple[list[Question], WeakReason]:
        """The questions of an edit, and why its expert is dropped for one of them."""
        if not self.is_routed:
            return [Question(state, weight=1.0) for state in states], ""
        config = self.generator.config
        routing = route(
            self.generator.input_features(states),
            expert.visual_feature_QM.flatten()[None],
            expert.prompt_feature_QM.flatten()[None],
            config,
            self.generator.margin_weight(),
            offset=self.generator.filter_offset,
        )
        weights = routing.weights_BN[:, 0].tolist()
        questions = [Question(*pair) for pair in zip(states, weights, strict=True)]
        if all(weights):
            return questions, ""
        return questions, "gate" if routing.passed_BN.all() else "filter"

    def _refined(self, draft: Draft, first: Sequence[Answer], unlike: Sequence[Question]) -> Expert:
        """The expert after the steps it needs, all but the first with an unlike question; a settled
        one only takes part in those of others."""
        expert, _, questions, dropped = draft
        num_target_tokens = len(questions[0].states.target_ids_O)
        outcome = WriteOutcome(state="verified", num_target_tokens=num_target_tokens)
        is_verified = not dropped and _worst(first).margin >= self.margin
        if not self.is_any(not is_verified):
            return replace(expert, outcome=outcome)
        down_RD, up_RD = with_rank_by_need(expert, outcome.num_target_tokens)
        adam = torch.optim.Adam([down_RD, up_RD], lr=LEARNING_RATE)
        asked, is_settled = questions, False
        unlike_margin = min(UNLIKE_MARGIN, self.margin)
        while True:
            with torch.enable_grad():
                answers = self._answers(asked, down_RD, up_RD)
            own, others = answers[: len(questions)], answers[len(questions) :]
            worst = _worst(own)
            is_last = outcome.steps == self.max_steps
            is_right = worst.margin >= (NOISE if is_last else self.margin)
            is_done = is_right and all(answer.margin >= unlike_margin for answer in others)
            if not is_settled and (dropped or is_done or is_last):
                is_settled = True
                if dropped:
                    place = [question.weight for question in questions].index(0.0)
                    outcome = self._weak(outcome, dropped, own[place])
                elif not is_right:
                    outcome = self._weak(outcome, "text", worst)
                elif outcome.steps:
                    outcome = replace(outcome, state="refined")
                expert = replace(expert, outcome=outcome)
                if outcome.steps:
                    down, up = down_RD.detach().clone(), up_RD.detach().clone()
                    expert = replace(expert, down_RD=down, up_RD=up)
            if not self.is_any(not is_settled):
                return expert
            with torch.enable_grad():
                losses = [answer.loss(self.margin + AIM) for answer in own]
                losses += [answer.loss(unlike_margin + AIM) for answer in others]
                loss = torch.stack(losses).mean()
            adam.zero_grad()
            loss.backward()
            # A settled one computes it too: processes that share the norm run it equally often.
            step_RD = self._linear_step(loss, asked, down_RD, up_RD)
            if not is_settled:
                if step_RD is None:
                    adam.step()
                else:
                    up_RD.data += step_RD
                outcome = replace(outcome, steps=outcome.steps + 1)
            asked = [*questions, *unlike]

    def _linear_step(
        self, loss: Tensor, asked: Sequence[Question], down_RD: Tensor, up_RD: Tensor
    ) -> Tensor | None:
        """What to add to `up`: its gradient, by the inverse second moment of the activations at
        target positions, as those are alike; as far as a linear loss falls to zero (Polyak)."""
        assert up_RD.grad is not None
        spans = [(question.states.target_span, question) for question in asked]
        hidden_OD = torch.cat([q.states.hidden_TD[start - 1 : stop] for (start, stop), q in spans])
        weights = [
            hidden_OD.new_full((stop - start + 1, 1), q.weight) for (start, stop), q in spans
        ]
        normed_OD = self.generator.hidden_norm(hidden_OD) * self.generator.config.gain
        active_OR = torch.relu(normed_OD @ down_RD.T) * torch.cat(weights)
        moment_RR = active_OR.T @ active_OR / len(active_OR)
        moment_RR.diagonal().add_(RIDGE * moment_RR.diagonal().mean() + NOTHING)
        way_RD = torch.linalg.solve(moment_RR, up_RD.grad)
        step_RD = -loss.detach() / (way_RD * up_RD.grad).sum().clamp(min=NOTHING) * way_RD
        moved = (active_OR @ step_RD).square().sum(1).mean().sqrt()
        return step_RD if moved <= LONGEST_STEP * hidden_OD.norm(dim=1).median() else None

    def _weak(self, outcome: WriteOutcome, reason: WeakReason, answer: Answer) -> WriteOutcome:
        return replace(outcome, state="weak", reason=reason, answer=self._text(answer))

    def _answers(self, asked: Sequence[Question], down_RD: Tensor, up_RD: Tensor) -> list[Answer]:
        """Answers to questions under an expert's matrices; differentiable."""
        edited_BTD = pad_sequence(self._edited(asked, down_RD, up_RD), batch_first=True)
        states = [question.states for question in asked]
        logits = self.backbone.target_logits(states, edited_BTD, has_end=True)
        return [self._answer(*pair) for pair in zip(asked, logits, strict=True)]

    def _edited(self, asked: Sequence[Question], down_RD: Tensor, up_RD: Tensor) -> list[Tensor]:
        """Hidden states of each question with the residual of an expert, [T, D]."""
        hidden = [question.states.hidden_TD for question in asked]
        normed_XD = self.generator.hidden_norm(torch.cat(hidden))
        parts = normed_XD.split([len(part) for part in hidden])
        gain, edited = self.generator.config.gain, []
        for question, own_TD, normed_TD in zip(asked, hidden, parts, strict=True):
            weights_1R = down_RD.new_full((1, len(down_RD)), question.weight)
            added_1TD = slot_residual(normed_TD[None], weights_1R, down_RD, up_RD, gain)
            edited.append(own_TD + added_1TD[0])
        return edited

    def _answer(self, question: Question, logits_OV: Tensor) -> Answer:
        ids_O = question.states.target_ids_O
        end_1 = ids_O.new_tensor([self.backbone.end_id])
        return Answer(logits_OV.float(), torch.cat([ids_O, end_1]))

    def _text(self, answer: Answer) -> str:
        """An answer up to its end."""
        token_ids, end_id = answer.token_ids, self.backbone.end_id
        stop = token_ids.index(end_id) if end_id in token_ids else len(token_ids)
        return self.backbone.decode(token_ids[:stop])


def refiner_for(
    backbone: Backbone, generator: LiveEditGenerator, section: RefineSection
) -> Refiner | None:
    """None where the experts of this generator stay as written."""
    if not section.is_on(generator.config):
        return None
    return Refiner(backbone, generator, max_steps=section.max_steps)


def unlike_question(edit_id: str) -> str:
    """A question that most likely asks something else than an edit."""
    return UNLIKE_QUESTIONS[_seed(edit_id) % len(UNLIKE_QUESTIONS)]


def _with_prompt(edit: BackboneInput, prompt: str) -> BackboneInput:
    return replace(edit, prompt=prompt, also_asked=())


def _seed(edit_id: str) -> int:
    return int.from_bytes(hashlib.sha256(edit_id.encode()).digest()[:7])


def _worst(answers: Sequence[Answer]) -> Answer:
    return min(answers, key=lambda answer: answer.margin)


def with_rank_by_need(expert: Expert, num_target_tokens: int) -> tuple[Tensor, Tensor]:
    """Leaf copies of down and up with a rank slot for each target token and the end at least: more
    slots of `down` are random with the same spread, those of `up` zero."""
    num_more = max(num_target_tokens + 1 - expert.rank, 0)
    drawer = torch.Generator().manual_seed(_seed(expert.edit_id))
    shape = (num_more, expert.down_RD.shape[1])
    more_down = torch.randn(shape, generator=drawer).to(expert.down_RD) * expert.down_RD.std()
    down_RD = torch.cat([expert.down_RD, more_down])
    up_RD = torch.cat([expert.up_RD, expert.up_RD.new_zeros(shape)])
    return down_RD.requires_grad_(), up_RD.requires_grad_()
