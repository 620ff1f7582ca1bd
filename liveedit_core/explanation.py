"""Explains an answer: which edits a question keeps, as numbers and as a chart."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from PIL import Image, ImageDraw, ImageFont

from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.errors import InputError
from liveedit_core.inputs.images import decode_image
from liveedit_core.method.editor import Editor
from liveedit_core.schema import Fact

NUM_NOT_KEPT = 3
"""Edits shown that the question does not keep: the nearest ones."""
NUM_NEAREST = 50
"""Edits with the most similar images that are compared for it, those that are kept included."""
_SIDE, _ROW, _WIDTH, _GAP = 192, 44, 420, 16
_KEPT, _NOT_KEPT, _INK = (32, 110, 160), (190, 190, 190), (30, 30, 30)


@dataclass(frozen=True, kw_only=True)
class ExplainedEdit:
    """Routing of a question to one edit."""

    edit_id: str
    fact: Fact | None
    """What it taught, if known."""
    is_kept: bool
    visual_similarity: float
    """Of the images; an edit is kept only above the threshold (Eq. 5). With a runner-up filter each
    edit has its own, and that of the explanation is the lowest. 0 for a textual edit, and for a
    question without an image: there is no threshold."""
    prompt_similarity: float
    gate: float
    """sigmoid(prompt similarity)."""
    weight: float
    """Share in the residual (Eq. 7); 0 where not kept."""


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """The edits that a question keeps, by falling weight, then the nearest that it does not."""

    prompt: str
    image_bytes: bytes | None = field(repr=False)
    threshold: float
    """Similarity of the image with the sentinel, for this prompt (Eq. 5); with a runner-up filter,
    the lowest similarity from which on an edit would be kept."""
    num_edits: int
    """In the whole bank."""
    edits: tuple[ExplainedEdit, ...]
    first: "Explanation | None" = None
    """Of the inner question, where two edits answer (`hops`); this one is of the second."""

    @property
    def kept(self) -> tuple[ExplainedEdit, ...]:
        """The edits that take part in the answer."""
        return tuple(edit for edit in self.edits if edit.is_kept)

    def __str__(self) -> str:
        lines = [f"{self.first}\nthen {self.prompt!r}:"] if self.first else []
        kept = f"{len(self.kept)} of {self.num_edits} edits kept"
        lines.append(f"{kept}; threshold {self.threshold:.3f}")
        for edit in self.edits:
            verdict = f"weight {edit.weight:.3f}" if edit.is_kept else "not kept"
            lines.append(f"  {verdict}, visual {edit.visual_similarity:.3f}: {_words(edit)}")
        return "\n".join(lines)

    def image(self) -> Image.Image:
        """The question's image and a bar for each edit; the vertical line is the threshold. Two
        questions are drawn one above the other."""
        own = self._chart()
        if self.first is None:
            return own
        above = self.first.image()
        both = Image.new("RGB", (own.width, above.height + own.height), "white")
        both.paste(above, (0, 0))
        both.paste(own, (0, above.height))
        return both

    def _chart(self) -> Image.Image:
        height = max(_SIDE + 3 * _GAP, (len(self.edits) + 1) * _ROW + 2 * _GAP)
        canvas = Image.new("RGB", (_SIDE + _WIDTH + 3 * _GAP, height), "white")
        if self.image_bytes is not None:
            shown = decode_image(self.image_bytes)
            shown.thumbnail((_SIDE, _SIDE))
            canvas.paste(shown, (_GAP, _GAP))
        pen = ImageDraw.Draw(canvas)
        font = ImageFont.load_default(13)
        left = _SIDE + 2 * _GAP
        pen.text((left, _GAP), self.prompt[:60], fill=_INK, font=font)
        for number, edit in enumerate(self.edits):
            top = _GAP + (number + 1) * _ROW
            verdict = f"weight {edit.weight:.2f}" if edit.is_kept else "not kept"
            pen.text((left, top), f"{verdict}  {_words(edit)}"[:62], fill=_INK, font=font)
            stop = left + max(2, self._pixels(edit.visual_similarity))
            colour = _KEPT if edit.is_kept else _NOT_KEPT
            pen.rectangle((left, top + 18, stop, top + 32), fill=colour)
        at = left + self._pixels(self.threshold)
        bottom = _GAP + (len(self.edits) + 1) * _ROW
        pen.line((at, _GAP + _ROW - 4, at, bottom), fill=(180, 40, 40), width=2)
        return canvas

    def _pixels(self, similarity: float) -> int:
        """Length of a bar; the scale spans all similarities and the threshold."""
        values = [self.threshold, *(edit.visual_similarity for edit in self.edits)]
        margin = 0.1 * (max(values) - min(values)) or 1.0
        low = min(values) - margin
        return int((similarity - low) / (max(values) + margin - low) * _WIDTH)


@torch.no_grad()
def explain(editor: Editor, item: BackboneInput, facts: Mapping[str, Fact]) -> Explanation:
    """Route one question; raises InputError if it has no image and there is no textual edit."""
    (states,) = editor.backbone.encode([item])
    if not editor.is_routed(states):
        raise InputError("a question without an image is routed to textual edits alone: none here")
    routing = editor.route([states], compared_U=editor.nearest(states, NUM_NEAREST))
    threshold = float(routing.threshold_B[0])
    kept_N, margin_N, prompt_N = routing.kept_BN[0], routing.margin_BN[0], routing.prompt_BN[0]
    edit_ids = [editor.repository.edit_ids[place] for place in routing.position_N.tolist()]
    order = sorted(range(len(kept_N)), key=lambda n: -float(routing.weights_BN[0, n]))
    kept = [n for n in order if kept_N[n]]
    left = [n for n in order if not kept_N[n]]
    nearest = sorted(left, key=lambda n: (-float(margin_N[n]), -float(prompt_N[n])))
    edits = [
        ExplainedEdit(
            edit_id=edit_ids[n],
            fact=facts.get(edit_ids[n]),
            is_kept=bool(kept_N[n]),
            visual_similarity=float(routing.visual_BN[0, n]),
            prompt_similarity=float(routing.prompt_BN[0, n]),
            gate=float(routing.prompt_BN[0, n].sigmoid()),
            weight=float(routing.weights_BN[0, n]),
        )
        for n in [*kept, *nearest[:NUM_NOT_KEPT]]
    ]
    return Explanation(
        prompt=item.prompt,
        image_bytes=item.image_bytes,
        threshold=threshold,
        num_edits=len(editor.repository),
        edits=tuple(edits),
    )


def _words(edit: ExplainedEdit) -> str:
    if edit.fact is None:
        return f"edit {edit.edit_id[:12]}"
    return f"{edit.fact.prompt[:48]} -> {edit.fact.target[:32]}"
