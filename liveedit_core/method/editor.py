"""The edited model: a frozen backbone, a trained generator and a repository of experts.

editor = Editor(backbone, generator, ExpertRepository.empty(generator.config))
editor = editor.with_edits([EditRequest(image_bytes=..., prompt=..., target=...)])
editor.answer([BackboneInput(prompt=..., image_bytes=...)])[0].text
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from liveedit_core.backbones.protocol import Backbone, BackboneInput, Residual, RouteOnce
from liveedit_core.errors import RepositoryMismatchError
from liveedit_core.method.expert import Expert
from liveedit_core.method.generator import LiveEditGenerator
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.method.routing import RoutingBatch, fused_residual, route
from liveedit_core.schema import EditRequest
from liveedit_core.states import LayerStates


@dataclass(frozen=True, kw_only=True)
class Routing:
    """Which experts answered one input; best weight first."""

    kept: tuple[str, ...]
    """edit_ids."""
    weights: tuple[float, ...]
    visual_margins: tuple[float, ...]
    """Visual similarity minus the sentinel's."""


NOTHING_KEPT = Routing(kept=(), weights=(), visual_margins=())


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A generated answer and the routing behind it (none for text-only inputs)."""

    text: str
    routing: Routing | None


class Editor:
    """Writes experts and answers through them.

    Args:
        backbone: frozen VLM.
        generator: trained modules; must have been made for this backbone's shape and edit layer.
        repository: the experts.

    Raises:
        RepositoryMismatchError: generator and backbone do not fit each other.
    """

    def __init__(
        self, backbone: Backbone, generator: LiveEditGenerator, repository: ExpertRepository
    ) -> None:
        config = generator.config
        for name in ("hidden_size", "num_image_tokens", "edit_layer", "visual_size"):
            wanted, found = getattr(config, name), getattr(backbone, name)
            needs_no_pyramid = name == "visual_size" and config.visual_size == 0
            if wanted != found and not needs_no_pyramid:
                raise RepositoryMismatchError(
                    f"the generator was made for {name} {wanted}, the backbone has {found}. "
                    "Use a generator checkpoint trained on this backbone."
                )
        self.backbone = backbone
        self.generator = generator
        self.repository = repository

    def with_repository(self, repository: ExpertRepository) -> "Editor":
        """The same model with other experts."""
        return Editor(self.backbone, self.generator, repository)

    def with_edits(self, requests: Sequence[EditRequest]) -> "Editor":
        """The same model with some more edits."""
        experts = self.write_experts(requests)
        return self.with_repository(self.repository.with_experts(self.generator.config, experts))

    @torch.no_grad()
    def write_experts(
        self, requests: Sequence[EditRequest], states: Sequence[LayerStates] | None = None
    ) -> list[Expert]:
        """One expert per request (Eq. 1, 3, 4).

        Args:
            requests: edits.
            states: their rows at l_e, if they are known already.

        Raises:
            NumericsError: an expert is not finite.
        """
        experts = self.unchecked_experts(requests, states)
        for expert in experts:
            expert.check_finite()
        return experts

    @torch.no_grad()
    def unchecked_experts(
        self, requests: Sequence[EditRequest], states: Sequence[LayerStates] | None = None
    ) -> list[Expert]:
        """`write_experts` for callers that look for NaN themselves."""
        if not requests:
            return []
        if states is None:
            states = self.backbone.encode([edit_input(request) for request in requests])
        features = self.generator.edit_features(states)
        down_BRD, up_BRD = self.generator.write_matrices(states)
        return [
            Expert(
                edit_id=request.edit_id,
                visual_feature_QM=features.visual_BQM[i].float().clone(),
                prompt_feature_QM=features.prompt_BQM[i].float().clone(),
                down_RD=down_BRD[i].float().clone(),
                up_RD=up_BRD[i].float().clone(),
            )
            for i, request in enumerate(requests)
        ]

    @torch.no_grad()
    def route(self, states: Sequence[LayerStates]) -> RoutingBatch:
        """Routing of inputs that all have an image (Eq. 5, 7)."""
        return route(
            self.generator.input_features(states),
            self.repository.visual_features_NK,
            self.repository.prompt_features_NK,
            self.generator.config,
            self.generator.visual_evidence(),
        )

    def explain(self, routing: RoutingBatch) -> list[Routing]:
        """The kept experts of each input by name, best weight first."""
        explained = []
        for row in range(routing.kept_BN.shape[0]):
            kept = routing.kept_BN[row].nonzero().flatten().tolist()
            kept.sort(key=lambda n: -float(routing.weights_BN[row, n]))
            explained.append(
                Routing(
                    kept=tuple(self.repository.edit_ids[n] for n in kept),
                    weights=tuple(float(routing.weights_BN[row, n]) for n in kept),
                    visual_margins=tuple(float(routing.margin_BN[row, n]) for n in kept),
                )
            )
        return explained

    def residual(self, routing: RoutingBatch) -> Residual | None:
        """The fused experts as a function of the rows (Eq. 6); None when nothing is kept."""
        used = routing.kept_BN.any(0).nonzero().flatten()
        if not len(used):
            return None
        kept = [routing.weights_BN[:, used], *self.repository.matrices(used)]
        norm, gain = self.generator.hidden_norm, self.generator.config.gain

        def add(hidden_BTD: Tensor) -> Tensor:
            """In float32, where the rows are; the kept experts go there once."""
            nonlocal norm, kept
            if hidden_BTD.device != kept[1].device:
                norm = copy.deepcopy(norm).to(hidden_BTD.device)
                kept = [part.to(hidden_BTD.device) for part in kept]
            weights_BN, down_NRD, up_NRD = kept
            normed_BTD = norm(hidden_BTD.float())
            added = fused_residual(normed_BTD, weights_BN, down_NRD, up_NRD, gain)
            return added.to(hidden_BTD.dtype)

        return add

    def router(self, routings: dict[int, Routing] | None = None) -> RouteOnce:
        """What a generating backbone calls at each prefill; notes each input's routing by index."""

        def route_once(index: Sequence[int], states: Sequence[LayerStates]) -> Residual | None:
            routing = self.route(states)
            if routings is not None:
                routings.update(zip(index, self.explain(routing), strict=True))
            return self.residual(routing)

        return route_once

    def answer(self, inputs: Sequence[BackboneInput], max_new_tokens: int = 12) -> list[Answer]:
        """Greedy answers; routing happens once, at prefill.

        Inputs without an image, and inputs for which nothing is kept, get exactly the backbone's
        answer.
        """
        routings: dict[int, Routing] = {}
        texts = self.backbone.generate(inputs, self.router(routings), max_new_tokens=max_new_tokens)
        return [Answer(text=text, routing=routings.get(i)) for i, text in enumerate(texts)]


def edit_input(request: EditRequest) -> BackboneInput:
    """An edit as the teacher-forced input whose rows the generator reads."""
    return BackboneInput(
        prompt=request.prompt, target=request.target, image_bytes=request.image_bytes
    )
