"""Textual edits in the log, the bank and its versions: as exact as visual ones."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from infra.bank.integrity import verify_version
from infra.requests.log_integrity import verify_log
from infra.requests.logged_facts import LoggedFacts
from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.inputs.datasets import load_requests
from liveedit_core.inputs.limits import InputLimits
from liveedit_core.inputs.rejects import Rejected
from liveedit_core.method.generator import LiveEditGenerator
from liveedit_core.schema import NO_IMAGE, EditRequest
from liveedit_core.states import LayerStates
from tests.unit.tiny_editing import Driver
from tests.unit.tiny_inputs import PROMPT, image, request
from tests.unit.tiny_models import CONFIG, HIDDEN_SIZE, TinyBackbone, TinyModels
from workers.generator_worker import GeneratorWorker

ASKS = CONFIG.with_changes(
    prompt_source="sentences", prompt_size=HIDDEN_SIZE, prompt_rank=4, min_gate=0.5
)
SAME = {
    "Who founded it?": 0,
    "By whom was it founded?": 0,
    "Where is it?": 1,
    PROMPT: 2,
    "Who founded plant 1?": 3,
    "Who founded plant 2?": 3,
    "By whom was plant 2 founded?": 3,
}
"""What each prompt asks."""


class AskingBackbone(TinyBackbone):
    """Embeds prompts that ask the same alike."""

    prompt_size = HIDDEN_SIZE

    def _encode(self, item: BackboneInput) -> LayerStates:
        rows_WP = torch.eye(HIDDEN_SIZE)[[SAME[text] for text in item.wordings]]
        return replace(super()._encode(item), prompt_embeddings=rows_WP)


@dataclass(frozen=True)
class AskingModels(TinyModels):
    def load_backbone(self) -> TinyBackbone:
        return AskingBackbone()

    def load_generator(self) -> LiveEditGenerator:
        torch.manual_seed(0)
        generator = LiveEditGenerator(ASKS).eval().requires_grad_(False)
        generator.prompt_key.log_scale.fill_(4.0)
        generator.digest = "tiny-generator"
        return generator


def textual(prompt: str, target: str) -> EditRequest:
    return EditRequest(image_bytes=None, prompt=prompt, target=target)


FOUNDED, PLACE = textual("Who founded it?", "Anna"), textual("Where is it?", "Lyon")
CORRECTED = textual("By whom was it founded?", "Boris")
WITH_IMAGE = replace(FOUNDED, image_bytes=image(7), target="Carla")
ITEMS = [request(0), FOUNDED, WITH_IMAGE, PLACE, CORRECTED]


def driver_at(folder: Path) -> Driver:
    driver = Driver(folder)
    driver.generator = GeneratorWorker(AskingModels(), InputLimits(max_target_tokens=4))
    return driver


def ids(*edits: EditRequest) -> list[str]:
    return [edit.edit_id for edit in edits]


@pytest.mark.parametrize("window", [1, 2, 5])
def test_a_bank_holds_the_newest_of_each_question(tmp_path: Path, window: int) -> None:
    driver = driver_at(tmp_path)
    outcome = driver.run(ITEMS, f"bank.window_edits={window}", "evaluation.at=[]")
    assert (outcome.num_edits, outcome.num_replaced) == (4, 1)
    assert driver.bank.edit_ids() == ids(request(0), WITH_IMAGE, PLACE, CORRECTED)
    (header,) = driver.log.headers(edit_ids=ids(CORRECTED))
    assert (header.supersedes, header.pixel_digest) == (FOUNDED.edit_id, NO_IMAGE)
    bank = driver.bank.load_repository(ASKS)
    assert bank.textual_positions.tolist() == [2, 3]
    logged = [item.request for item in driver.log.read()]
    assert logged == ITEMS
    assert LoggedFacts(driver.store).images_of(ids(*ITEMS)).keys() == {*ids(request(0), WITH_IMAGE)}
    assert verify_version(driver.bank, request_log=driver.log).is_whole
    assert verify_log(driver.log).is_whole


def test_edits_that_name_other_things_stay(tmp_path: Path) -> None:
    driver = driver_at(tmp_path)
    first, second = (textual(f"Who founded plant {n}?", f"Anna {n}") for n in (1, 2))
    corrected = textual("By whom was plant 2 founded?", "Boris")
    items = [request(0), first, second, request(1), corrected]
    driver.run(items, "bank.window_edits=1", "evaluation.at=[]")
    assert driver.bank.edit_ids() == ids(request(0), first, request(1), corrected)


def test_a_removal_brings_the_corrected_one_back_bit_for_bit(tmp_path: Path) -> None:
    driver = driver_at(tmp_path)
    driver.run(ITEMS[:4], "bank.window_edits=1", "evaluation.at=[]")
    before = driver.rows()
    driver.run(ITEMS, "bank.window_edits=1", "evaluation.at=[]")
    epoch = driver.bank.acquire_writer()
    driver.bank.remove(ids(CORRECTED), author="ann", reason="", epoch=epoch)
    assert driver.rows() == before
    driver.bank.restore(ids(CORRECTED), author="ann", reason="", epoch=epoch)
    again = driver_at(tmp_path / "again")
    again.run([*ITEMS[:1], *ITEMS[2:]], "evaluation.at=[]")
    names = ["edit_id", "expert_down", "prompt_feature", "visual_feature"]
    assert driver.bank.load_rows(names) == again.bank.load_rows(names)


def test_a_generator_without_prompt_keys_refuses_it_alone(tmp_path: Path) -> None:
    driver = Driver(tmp_path)
    driver.run(ITEMS, "evaluation.at=[]")
    assert driver.bank.edit_ids() == ids(request(0), WITH_IMAGE)
    refused = [item.rejected.error_type for item in driver.log.rejects.read()]
    assert refused == ["ImageMissing"] * 3


@pytest.mark.parametrize("image_key", [{}, {"image": None}])
def test_a_line_without_an_image_is_a_textual_edit(
    tmp_path: Path, image_key: dict[str, None]
) -> None:
    file = tmp_path / "facts.jsonl"
    lines = [
        {**image_key, "prompt": FOUNDED.prompt, "target": FOUNDED.target},
        {**image_key, "prompt": PLACE.prompt, "target": PLACE.target, "also_asked": ["Where?"]},
        {"image": "", "prompt": PLACE.prompt, "target": PLACE.target},
    ]
    file.write_text("\n".join(map(json.dumps, lines)))
    first, second, refused = load_requests(file)
    assert first == FOUNDED
    assert isinstance(second, EditRequest)
    assert (second.image_bytes, second.also_asked) == (None, ("Where?",))
    assert isinstance(refused, Rejected)
