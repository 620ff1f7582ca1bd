"""Writes the forms of an expert: slots that answer what follows from its fact.

Each form is an edit of its own about the same image, written by the generator and refined, whose
slots are stored behind those of the fact. So a fact and its forms are one row of a bank.
"""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from liveedit_core.backbones.protocol import Backbone, BackboneInput
from liveedit_core.backbones.vision_language import as_vision_language
from liveedit_core.errors import ConfigError
from liveedit_core.method.config import RefineSection
from liveedit_core.method.expert import Expert
from liveedit_core.method.forms.texts import FORMS, DerivedForm, derived_forms
from liveedit_core.method.generator import LiveEditGenerator
from liveedit_core.method.prompt_key import form_row
from liveedit_core.method.refine import Refiner
from liveedit_core.states import LayerStates

DIRECTIONS_FILE = Path(__file__).with_name("directions.safetensors")
"""Written by `builtin.build.question_forms`."""
LEAST_ODDS = -3.0
"""Log-odds of a form from which on it may be asked for: its text is compared then (`claims`)."""
MARGIN = 1.0
"""As in `refine`, for forms: less, as their questions are alike."""
OWN_ODDS = -3.0
"""Log-odds of any form that an edit's own wordings have at most: they are its plain question."""
RIGHT_SCALE = 60.0
RIGHT_OFFSETS = {"yes": 0.26, "reversed": 0.23}
WRONG_SHARE = 0.75
"""A question names the right answer where its cosine with questions of yes or no that do, minus
this share of that with those that do not, exceeds the offset of a form (chosen on training
families, "yes" beside `claims` on facts by hand)."""


@lru_cache(1)
def directions() -> tuple[Tensor, Tensor]:
    """Of all `FORMS` [F, S], and their biases [F]."""
    tensors = load_file(DIRECTIONS_FILE)
    return tensors["direction_FS"], tensors["bias_F"]


def form_asked(backbone: Backbone, generator: LiveEditGenerator, prompt: str) -> str:
    """Which of `FORMS` a question most likely asks for, whatever edit it is about; "" if none."""
    direction_FS, bias_F = directions()
    encoder = as_vision_language(backbone).prompt_encoder
    if encoder is None or generator.prompt_key.text_size != direction_FS.shape[1]:
        return ""
    text_1S = generator.prompt_key.text(encoder.rows((prompt,)).to(backbone.device))
    odds_F = (text_1S.cpu() @ direction_FS.T + bias_F)[0]
    return FORMS[int(odds_F.argmax())] if odds_F.max() > LEAST_ODDS else ""


def has_yes_and_no(forms_FX: Tensor) -> bool:
    """Whether the first two forms of an expert are yes and no: the key of "no" is a direction."""
    direction_S = directions()[0][FORMS.index("yes or no")]
    return len(forms_FX) > 1 and torch.equal(forms_FX[1, 2:].cpu(), direction_S)


class FormWriter:
    """Adds forms to experts as they are written."""

    def __init__(self, backbone: Backbone, generator: LiveEditGenerator, refiner: Refiner) -> None:
        self.backbone = backbone
        self.generator = generator
        steps = refiner.max_steps
        self.refiner = Refiner(
            backbone, generator, max_steps=steps, is_routed=False, has_unlike=False, margin=MARGIN
        )
        encoder = as_vision_language(backbone).prompt_encoder
        self.corrected = encoder.corrected if encoder else str
        size = generator.prompt_key.text_size if generator.has_prompt_key else 0
        if size != directions()[0].shape[1]:
            raise ConfigError(
                "refine.derived needs a generator whose prompt key has room for the embedding of a "
                f"prompt ({directions()[0].shape[1]} numbers), this one has {size}: use the "
                "built-in recipe's prompt_source and module_dim, or leave refine.derived off"
            )

    @torch.no_grad()
    def with_forms(self, expert: Expert, edit: BackboneInput, own: LayerStates) -> Expert:
        """The expert with the forms of its fact; `own` are the states of its edit.

        A weak edit, and one without an image, has none. A form whose own question stays unanswered
        is left out.
        """
        if edit.image_bytes is None or expert.outcome.state == "weak":
            return expert
        longest = self.generator.config.max_target_tokens
        forms = [
            form
            for form in derived_forms(self.corrected(edit.prompt), edit.target)
            if not longest or self.backbone.count_target_tokens(form.target) <= longest
        ]
        if not forms:
            return expert
        inputs = [
            BackboneInput(
                prompt=form.wordings[0],
                target=form.target,
                image_bytes=edit.image_bytes,
                also_asked=form.wordings[1:],
            )
            for form in forms
        ]
        states = self.backbone.encode(inputs)
        written = self._written(expert, inputs, states)
        keys = self._keys(forms, states, own)
        weak = {forms[n].name for n, one in enumerate(written) if one.outcome.state == "weak"}
        if weak & {"yes", "no"}:
            weak |= {"yes", "no", "reversed"}  # one alone would answer every such question
        kept = [n for n, form in enumerate(forms) if form.name not in weak]
        rows = [form_row(written[n].rank, *keys[n]) for n in kept]
        return replace(
            expert,
            down_RD=torch.cat([expert.down_RD, *(written[n].down_RD for n in kept)]),
            up_RD=torch.cat([expert.up_RD, *(written[n].up_RD for n in kept)]),
            forms_FX=torch.stack(rows) if rows else expert.forms_FX,
        )

    def _written(
        self, expert: Expert, inputs: list[BackboneInput], states: list[LayerStates]
    ) -> list[Expert]:
        """The slots of each form."""
        down_FRD, up_FRD = self.generator.write_matrices(states)
        ranks = self.generator.ranks(states).tolist()
        drafts = [
            replace(expert, down_RD=down_FRD[n, :rank].float(), up_RD=up_FRD[n, :rank].float())
            for n, rank in enumerate(ranks)
        ]
        asked = [replace(one, also_asked=()) for one in inputs]
        return self.refiner.refine(drafts, asked, states)

    def _keys(
        self, forms: list[DerivedForm], states: list[LayerStates], own: LayerStates
    ) -> list[tuple[float, Tensor]]:
        """Bias and key of each form."""
        direction_FS, bias_F = (part.to(states[0].hidden_TD.device) for part in directions())
        asked_FS = {
            form.name: functional.normalize(
                self.generator.prompt_key.text(state.prompt_embeddings_WP).mean(0), dim=-1
            )
            for form, state in zip(forms, states, strict=True)
        }
        own_WS = self.generator.prompt_key.text(own.prompt_embeddings_WP)
        keys = []
        for form in forms:
            place = FORMS.index("yes or no" if form.name in ("yes", "no") else form.name)
            bias, key_S = float(bias_F[place]), direction_FS[place]
            if form.name in RIGHT_OFFSETS:
                bias -= RIGHT_SCALE * RIGHT_OFFSETS[form.name]
                key_S = key_S + RIGHT_SCALE * (asked_FS["yes"] - WRONG_SHARE * asked_FS["no"])
            bias = min(bias, OWN_ODDS - float((own_WS @ key_S).max()))
            keys.append((bias, key_S))
        return keys


def form_writer_for(
    backbone: Backbone,
    generator: LiveEditGenerator,
    refiner: Refiner | None,
    section: RefineSection,
) -> FormWriter | None:
    """None where experts have no forms."""
    if not section.derived:
        return None
    if refiner is None:
        raise ConfigError("refine.derived needs refine.mode on: forms are verified and refined")
    return FormWriter(backbone, generator, refiner)
