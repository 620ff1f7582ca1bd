"""What the server decodes on a GPU that is not there, against the same on the CPU."""

from liveedit_core.backbones.slots import DecodingSlots
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.method.editor import Editor, edit_input
from liveedit_core.method.fused_rows import fused_rows
from liveedit_core.method.repository import ExpertRepository
from pipelines.serving.served import ServedVersion
from tests.fake_cuda import fake_gpu
from tests.gpu_backbone import tiny_backbone_on
from tests.tiny_backbone import OUR_CONFIG, question, request, tiny_generator


def decoded(backbone: VisionLanguageBackbone) -> list[object]:
    """Three sequences with experts in one cache; the first ends before the third begins."""
    empty = Editor(backbone, tiny_generator(OUR_CONFIG), ExpertRepository.empty(OUR_CONFIG))
    editor = empty.with_edits([request(number) for number in range(3)])
    version = ServedVersion(name="v1", num_edits=3, editor=editor)
    states = backbone.encode([edit_input(request(number)) for number in range(3)])
    routings, kept = zip(*version.route(states), strict=True)
    assert all(one.experts for one in kept)
    slots = DecodingSlots(backbone)
    (batch,) = backbone.generation_batches([question(0), question(1)])
    logits = [slots.join(batch, None)]
    slots.residual = fused_rows(kept[:2])
    logits.append(slots.step(logits[-1].argmax(-1).tolist()))
    slots.keep([1])
    (batch,) = backbone.generation_batches([question(2)])
    logits.append(slots.join(batch, None))
    slots.residual = fused_rows(kept[1:])
    logits.append(slots.step([5, 6]))
    assert {one.device for one in logits} == {backbone.device}
    return [routings, [one.tolist() for one in logits]]


def test_sequences_share_their_slots_on_a_gpu() -> None:
    with fake_gpu():
        expected, found = (decoded(tiny_backbone_on(name, OUR_CONFIG)) for name in ("cpu", "cuda"))
        assert found == expected
