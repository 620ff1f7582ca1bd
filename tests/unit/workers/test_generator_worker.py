"""Each request of a micro-batch becomes an expert or a refusal; neighbours never notice."""

import torch

from liveedit_core.inputs.limits import InputLimits
from liveedit_core.method.config import RefineSection
from liveedit_core.schema import EditRequest
from tests.unit.tiny_inputs import PROMPT, image, request
from tests.unit.tiny_models import CONFIG, TinyModels
from workers.generator_worker import GeneratorWorker
from workers.messages import NumberedRequest


def numbered(*requests: EditRequest) -> list[NumberedRequest]:
    return [NumberedRequest(sequence=index, request=item) for index, item in enumerate(requests, 1)]


def worker(models: TinyModels | None = None, limits: InputLimits | None = None) -> GeneratorWorker:
    return GeneratorWorker(models or TinyModels(), limits or InputLimits())


def test_it_says_what_it_runs() -> None:
    facts = worker().describe()
    assert (facts.backbone_digest, facts.generator_digest) == ("tiny-backbone", "tiny-generator")
    assert facts.config == CONFIG


def test_every_request_gets_its_expert() -> None:
    requests = [request(number) for number in range(3)]
    batch = worker().generate(numbered(*requests))
    assert [item.sequence for item in batch.experts] == [1, 2, 3]
    assert [item.expert.edit_id for item in batch.experts] == [r.edit_id for r in requests]
    assert [item.request.subject_id for item in batch.experts] == [r.subject_id for r in requests]
    assert batch.rejected == ()
    assert batch.last_sequence == 3


def test_a_bad_request_is_refused_and_its_neighbours_are_as_without_it() -> None:
    good, bad = [request(0), request(1)], request(2, target="one two three four five")
    limits = InputLimits(max_target_tokens=4)
    alone = worker(limits=limits).generate(numbered(*good))
    batch = worker(limits=limits).generate(numbered(bad, *good))
    (refusal,) = batch.rejected
    assert refusal.error_type == "TooManyTokens"
    assert refusal.edit_id == bad.edit_id
    assert "5 tokens" in refusal.message
    for one, other in zip(alone.experts, batch.experts, strict=True):
        assert torch.equal(one.expert.down_RD, other.expert.down_RD)


def test_a_image_that_cannot_be_decoded_is_refused() -> None:
    broken = EditRequest(image_bytes=image(1)[:40], prompt=PROMPT, target="an entity")
    batch = worker().generate(numbered(broken, request(0)))
    assert [item.edit_id for item in batch.rejected] == [broken.edit_id]
    assert len(batch.experts) == 1


def test_an_expert_with_nan_is_refused_alone() -> None:
    poisoned = request(0, prompt="Is this poison?")
    models = TinyModels(poisoned_prompt="Is this poison?")
    batch = worker(models).generate(numbered(request(1), poisoned, request(2)))
    (refusal,) = batch.rejected
    assert (refusal.edit_id, refusal.error_type) == (poisoned.edit_id, "NumericsError")
    assert [item.sequence for item in batch.experts] == [1, 3]


def test_a_batch_of_refusals_is_an_answer_too() -> None:
    batch = worker(limits=InputLimits(max_prompt_tokens=1)).generate(numbered(request(0)))
    assert batch.experts == ()
    assert batch.last_sequence == 1


def test_a_weak_edit_is_refused_with_its_reason_or_committed() -> None:
    refine = RefineSection(mode="on", max_steps=1)
    strict = GeneratorWorker(TinyModels(), InputLimits(), refine=refine)
    batch = strict.generate(numbered(request(0), request(1)))
    assert batch.experts == ()
    assert {item.error_type for item in batch.rejected} == {"WeakEdit"}
    first = batch.rejected[0]
    assert first.outcome is not None
    assert first.outcome.num_target_tokens > 0
    assert first.message == first.outcome.explanation("entity number 0")
    assert 0 < batch.refine_s < batch.duration_s
    lenient = GeneratorWorker(TinyModels(), InputLimits(), refine=refine, weak="commit")
    kept = lenient.generate(numbered(request(0), request(1)))
    assert kept.rejected == ()
    assert {item.expert.outcome.state for item in kept.experts} == {"weak"}
