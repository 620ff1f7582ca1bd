"""The engine of an `EditedModel`: writes experts, routes inputs and computes the residual."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import get_args

import torch
from torch import Tensor

from liveedit_core.backbones.apart import encode_apart
from liveedit_core.backbones.protocol import Backbone, BackboneInput, Residual, RouteOnce
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.devices import device_of
from liveedit_core.errors import ConfigError, RepositoryMismatchError
from liveedit_core.inputs.rejects import RefusedInputError, RejectType
from liveedit_core.method.calibration import Calibration, Strangers, calibrate, strangers_of
from liveedit_core.method.config import IndexMode
from liveedit_core.method.corrections import edit_questions
from liveedit_core.method.expert import Expert
from liveedit_core.method.features import Features
from liveedit_core.method.forms.writing import FormWriter
from liveedit_core.method.fused_rows import float32_residual
from liveedit_core.method.generator import LiveEditGenerator
from liveedit_core.method.key_index import KeyIndex, MissCounter
from liveedit_core.method.prompt_key import form_logits, form_slots
from liveedit_core.method.quantized import Found, QuantizedSegment, quantized
from liveedit_core.method.refine import Refiner
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.method.routing import (
    FormShares,
    RoutingBatch,
    compare_images,
    slot_weights,
    weigh,
)
from liveedit_core.method.shortlist import (
    answering,
    as_they_are,
    most_similar,
    scan,
    search_of,
)
from liveedit_core.schema import EditRequest
from liveedit_core.states import LayerStates


@dataclass(frozen=True, kw_only=True)
class Routing:
    """The experts that one input keeps, largest weight first."""

    kept: tuple[str, ...]
    """Edit ids."""
    weights: tuple[float, ...]
    visual_margins: tuple[float, ...]
    """Visual similarity minus the sentinel's."""
    form_shares: tuple[tuple[float, ...], ...] = ()
    """Of each edit that of its fact and those of its forms (`prompt_key`), () of one without; none
    where no edit has forms."""
    first: "Routing | None" = None
    """Of the inner question, where two edits answer (`hops`)."""

    @property
    def is_plain(self) -> bool:
        """Whether the first edit is asked for its fact, not for what follows from it."""
        shares = self.form_shares[0] if self.form_shares else ()
        return not shares or shares[0] == max(shares)


NOTHING_KEPT = Routing(kept=(), weights=(), visual_margins=())


class Editor:
    """A frozen backbone, a generator made for it and a repository of experts; immutable.

    Generator and experts move to the device of the backbone. With a `refiner`, experts are verified
    and refined as they are written. `index` says whether large banks are searched by a `KeyIndex`.
    """

    def __init__(
        self,
        backbone: Backbone,
        generator: LiveEditGenerator,
        repository: ExpertRepository,
        refiner: Refiner | None = None,
        *,
        index: IndexMode = "auto",
        form_writer: FormWriter | None = None,
    ) -> None:
        if index not in get_args(IndexMode):
            raise ConfigError(f"index is one of {', '.join(get_args(IndexMode))}, got {index!r}")
        config = generator.config
        pyramids = ("visual_size", "prompt_size", "has_image_views")
        for name in ("hidden_size", "num_image_tokens", "edit_layer", *pyramids):
            wanted, found = getattr(config, name), getattr(backbone, name)
            is_free = name in pyramids and not wanted
            if name == "has_image_views":  # the pyramids of a backbone with views are others
                is_free = not config.visual_size
            if wanted != found and not is_free:
                raise RepositoryMismatchError(
                    f"the generator was made for {name} {wanted}, the backbone has {found}. "
                    "Use a generator checkpoint trained on this backbone."
                )
        if device_of(generator) != backbone.device:
            generator.to(backbone.device)
        self.backbone = backbone
        self.generator = generator
        self.repository = repository.to(backbone.device)
        self.refiner = refiner
        self.form_writer = form_writer
        self._strangers: Strangers | None = None
        """Of this repository, or of one before it."""
        self._scanned_before: tuple[QuantizedSegment, ...] = ()
        """The same."""
        self._index_mode: IndexMode = index
        self._index_before: KeyIndex | None = None
        """The same."""
        self.misses = MissCounter()
        """Of the index, of this and earlier repositories."""

    @cached_property
    def calibration(self) -> Calibration:
        """How strict the visual filter is; computed when it is first asked for."""
        if self.generator.config.visual_filter == "runner_up":
            self._strangers = strangers_of(self.generator, self.repository, self._strangers)
        return calibrate(self.generator, self.repository, self._strangers)

    @cached_property
    def scanned(self) -> tuple[QuantizedSegment, ...]:
        """The repository's visual features as they are scanned."""
        self._scanned_before = quantized(self.repository.visual, self._scanned_before)
        return self._scanned_before

    @cached_property
    def _index(self) -> KeyIndex | None:
        if self._index_mode == "auto":
            config = self.generator.config
            self._index_before = KeyIndex.of(self.repository, config, self._index_before)
        return self._index_before

    def prepare(self) -> None:
        """Compute now what the first question would wait for."""
        _ = self.calibration, self._index

    def with_repository(self, repository: ExpertRepository) -> "Editor":
        """The same engine with other experts."""
        mode = self._index_mode
        parts = (self.backbone, self.generator, repository, self.refiner)
        editor = Editor(*parts, index=mode, form_writer=self.form_writer)
        editor._strangers = self._strangers
        editor._scanned_before = self._scanned_before
        editor._index_before = self._index_before
        editor.misses = self.misses
        return editor

    def with_edits(
        self, requests: Sequence[EditRequest], states: Sequence[LayerStates] | None = None
    ) -> "Editor":
        """The same engine with more edits; `states` as in `write_experts`."""
        experts = self.write_experts(requests, states)
        return self.with_repository(self.repository.with_experts(self.generator.config, experts))

    @torch.no_grad()
    def write_experts(
        self,
        requests: Sequence[EditRequest],
        states: Sequence[LayerStates] | None = None,
        *,
        check_finite: bool = True,
    ) -> list[Expert]:
        """One expert per request (Eq. 1, 3, 4); `states` are those of `edit_input`, if known.

        With a refiner, an expert depends on its own request and states alone, bit for bit.
        """
        if not requests:
            return []
        for request in requests:
            check_has_image(request, self.generator)
        states = self.edit_states(requests) if states is None else states
        if self.refiner is None:
            experts = self._written(requests, states)
        else:
            pairs = list(zip(requests, states, strict=True))
            written = [self._written([request], [state])[0] for request, state in pairs]
            inputs = [edit_input(request) for request in requests]
            experts = self.refiner.refine(written, inputs, states)
            if self.form_writer is not None:
                parts = zip(experts, inputs, states, strict=True)
                experts = [self.form_writer.with_forms(*part) for part in parts]
        for expert in experts if check_finite else ():
            expert.check_finite()
        return experts

    def edit_states(self, requests: Sequence[EditRequest]) -> list[LayerStates]:
        """States of `edit_input`; with a refiner encoded apart."""
        inputs = [edit_input(request) for request in requests]
        if self.refiner is None:
            return self.backbone.encode(inputs)
        return encode_apart(self.backbone, inputs)

    def _written(
        self, requests: Sequence[EditRequest], states: Sequence[LayerStates]
    ) -> list[Expert]:
        """Experts as the generator writes them."""
        features = self.generator.edit_features(states)
        down_BRD, up_BRD = self.generator.write_matrices(states)
        ranks = self.generator.ranks(states).tolist()
        questions = edit_questions(self.generator, states)
        return [
            Expert(
                edit_id=request.edit_id,
                visual_feature_QM=features.visual_BQM[i].float().clone(),
                prompt_feature_QM=features.prompt_BQM[i].float().clone(),
                down_RD=down_BRD[i, : ranks[i]].float().clone(),
                up_RD=up_BRD[i, : ranks[i]].float().clone(),
                question=questions[i],
            )
            for i, request in enumerate(requests)
        ]

    def is_routed(self, state: LayerStates) -> bool:
        """Whether an input may keep an expert: without an image only a textual one."""
        return state.has_image or self.has_textual

    @cached_property
    def has_textual(self) -> bool:
        """Whether there are edits that a question without an image may keep."""
        return len(self.repository.textual_positions) > 0

    def routing_states(self, inputs: Sequence[BackboneInput]) -> list[LayerStates]:
        """States for `route` alone: where the image tower and the prompt encoder say which experts
        are kept, no layer of the language model runs."""
        generator, backbone = self.generator, self.backbone
        is_read = not (generator.has_pyramid and generator.has_prompt_key)
        if is_read or not isinstance(backbone, VisionLanguageBackbone):
            return backbone.encode(inputs)
        return backbone.encode(inputs, has_hidden=False)

    @torch.no_grad()
    def route(
        self, states: Sequence[LayerStates], *, compared_U: Tensor | None = None
    ) -> RoutingBatch:
        """Routing of inputs that `is_routed` (Eq. 5, 7).

        Over the experts that can be kept, or over those at the positions `compared_U`.
        """
        generator, repository = self.generator, self.repository
        config, offset = generator.config, self.calibration.offset
        features = generator.input_features(states, has_prompts=not config.has_hard_filter)
        if compared_U is None:
            compared_U = self._listed(features)
        images = compare_images(features, repository.visual[compared_U], config, offset)
        if config.has_hard_filter:
            features = generator.with_prompts(features, states, images.passed_BN.any(1))
        prompt_UK = repository.prompt[compared_U]
        logits = self._form_logits(features, compared_U) if repository.forms else {}
        visual_weight = generator.margin_weight()
        routing = weigh(features, images, prompt_UK, config, visual_weight, form_logits=logits)
        shares = {}
        for column, logits_BF in logits.items():
            place = int(compared_U[column])
            slots = form_slots(repository.forms[place], int(repository.ranks_N[place]))
            shares_BF = logits_BF.softmax(-1)
            for row, state in enumerate(states):
                if state.form is not None and int(routing.weights_BN[row].argmax()) == column:
                    shares_BF[row] = torch.eye(len(slots))[state.form]
            shares[column] = FormShares(shares_BF, slots)
        return replace(routing, position_N=compared_U, form_shares=shares)

    def _form_logits(self, features: Features, compared_U: Tensor) -> dict[int, Tensor]:
        """By column, of the experts with forms."""
        text_BS = self.generator.prompt_key.text_of(features.prompt_BQM)
        forms = self.repository.forms
        places = enumerate(compared_U.tolist())
        return {n: form_logits(text_BS, forms[place]) for n, place in places if place in forms}

    def _listed(self, features: Features) -> Tensor:
        """Positions of the experts that can matter for some question: all of them in a scan, all
        but what the index misses where there is one."""
        config, repository = self.generator.config, self.repository
        if not config.has_hard_filter:
            return repository.held_positions
        search = search_of(features, config, self.calibration.offset)
        found_U = self._index.find(search, repository, config) if self._index else None
        if found_U is None:
            return answering(scan(search, self.scanned), search, repository, config)
        listed_U = answering(Found(found_U), search, repository, config)
        questions = len(features.visual_BQM)
        self.misses.sample(questions, lambda: self._missed(features, listed_U))
        return listed_U

    @torch.no_grad()
    def _missed(self, features: Features, listed_U: Tensor) -> tuple[int, int, int]:
        """Experts that pass the visual filter in a full scan, those of them that do not among some,
        and those that do only there."""
        config, offset, visual = (
            self.generator.config,
            self.calibration.offset,
            self.repository.visual,
        )
        search = search_of(features, config, offset)
        found = scan(search, as_they_are(visual))
        whole_U, passed = answering(found, search, self.repository, config), []
        for position_U in (whole_U, listed_U):
            is_passed_BU = compare_images(features, visual[position_U], config, offset).passed_BN
            pairs = is_passed_BU.nonzero()
            passed.append({(b, int(position_U[u])) for b, u in pairs.tolist()})
        whole, listed = passed
        return len(whole), len(whole - listed), len(listed - whole)

    @torch.no_grad()
    def nearest(self, states: LayerStates, count: int) -> Tensor:
        """Positions of the experts that a question can keep, and of others whose images are the
        most similar, `count` or more in all."""
        config = self.generator.config
        features = self.generator.input_features([states], has_prompts=False)
        others = most_similar(features, self.repository, config, count)
        positions: Tensor = torch.cat([self._listed(features), others]).unique()
        return positions

    def explain(self, routing: RoutingBatch) -> list[Routing]:
        """The kept experts of each input."""
        explained = []
        for row in range(routing.kept_BN.shape[0]):
            kept = routing.kept_BN[row].nonzero().flatten().tolist()
            kept.sort(key=lambda n: -float(routing.weights_BN[row, n]))
            places = routing.position_N[kept].tolist()
            shares = tuple(routing.shares_of(row, n) for n in kept)
            explained.append(
                Routing(
                    kept=tuple(self.repository.edit_ids[place] for place in places),
                    weights=tuple(routing.weights_BN[row, kept].tolist()),
                    visual_margins=tuple(routing.margin_BN[row, kept].tolist()),
                    form_shares=shares if any(shares) else (),
                )
            )
        return explained

    def residual(self, routing: RoutingBatch) -> Residual | None:
        """The fused experts on hidden states (Eq. 6), in float32; None if none is kept."""
        used = routing.kept_BN.any(0).nonzero().flatten().cpu()
        if not len(used):
            return None
        position_U = routing.position_N[used]
        ranks_U = self.repository.ranks_N[position_U]
        shares = {
            n: routing.form_shares[column]
            for n, column in enumerate(used.tolist())
            if column in routing.form_shares
        }
        repeated = slot_weights(routing.weights_BN[:, used], ranks_U, shares)
        matrices = self.repository.matrices(position_U)
        added = float32_residual(self.generator, repeated, *matrices)
        return lambda hidden_BTD: added(hidden_BTD).to(hidden_BTD.dtype)

    def router(self, routings: dict[int, Routing] | None = None) -> RouteOnce:
        """For `Backbone.generate`; fills `routings` with that of each input that is routed."""

        def route_once(index: Sequence[int], states: Sequence[LayerStates]) -> Residual | None:
            if not all(map(self.is_routed, states)):  # the inputs of a batch have images or none
                return None
            routing = self.route(states)
            if routings is not None:
                routings.update(zip(index, self.explain(routing), strict=True))
            return self.residual(routing)

        return route_once


def check_has_image(request: EditRequest, generator: LiveEditGenerator) -> None:
    """Refuse a textual edit where images alone tell edits apart."""
    if request.image_bytes is None and not generator.can_route_texts:
        raise RefusedInputError(
            "an edit without an image needs a generator with a prompt key and a prompt gate "
            "(prompt_source sentences, min_gate above 0): this one finds edits by their images; "
            "give the edit an image",
            RejectType.IMAGE_MISSING,
        )


def edit_input(request: EditRequest) -> BackboneInput:
    """An edit as the teacher-forced input that the generator reads."""
    return BackboneInput(
        prompt=request.prompt,
        target=request.target,
        image_bytes=request.image_bytes,
        also_asked=request.also_asked,
    )
