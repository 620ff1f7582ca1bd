"""What one input raises is its refusal; what a known-good one raises too ends the work."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.errors import ConfigError, InputError, LiveEditError, StorageUnavailableError
from liveedit_core.evaluation.probes import PROTOCOLS
from liveedit_core.inputs.limits import InputLimits
from liveedit_core.inputs.rejects import Rejected
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.schema import Probe, ProbeKind
from liveedit_core.states import LayerStates
from tests.unit.tiny_inputs import HashEmbedder, case, numbered, request
from tests.unit.tiny_models import CONFIG, TinyBackbone, TinyModels
from workers.evaluation_worker import EvaluationWorker
from workers.expert_embedding_worker import ExpertEmbeddingWorker
from workers.failures import outcomes
from workers.generator_worker import GeneratorWorker
from workers.messages import EvaluationUnit, SharedRepository


class FussyBackbone(TinyBackbone):
    """Raises what is not ours: of its processor for "aspect", in a layer for "layer", or always."""

    is_broken = False

    def check_input(self, item: BackboneInput) -> None:
        if "aspect" in item.prompt:
            raise ValueError("absolute aspect ratio must be smaller than 200")
        if "<image>" in item.prompt:
            raise InputError("a control token")

    def encode(self, inputs: Sequence[BackboneInput]) -> list[LayerStates]:
        if self.is_broken or any("layer" in item.prompt for item in inputs):
            raise ZeroDivisionError("in a layer")
        return super().encode(inputs)


class FussyModels(TinyModels):
    def load_backbone(self) -> TinyBackbone:
        return FussyBackbone()


def test_several_bad_requests_of_one_batch_are_several_refusals() -> None:
    worker = GeneratorWorker(FussyModels(), InputLimits())
    prompts = ["aspect", "fine", "layer", "aspect again", "layer again"]
    batch = worker.generate(numbered([request(i, prompt=p) for i, p in enumerate(prompts)]))
    assert [item.request.prompt for item in batch.experts] == ["fine"]
    assert [item.error_type for item in batch.rejected] == [
        *["ValueError"] * 2,
        *["ZeroDivisionError"] * 2,
    ]
    assert "aspect ratio" in batch.rejected[0].message


def test_a_batch_of_nothing_but_bad_requests_is_no_fault_of_the_program() -> None:
    worker = GeneratorWorker(FussyModels(), InputLimits())
    bad = [request(number, prompt="aspect") for number in range(2)]
    batch = worker.generate(numbered([*bad, request(3, prompt="layer")]))
    assert batch.experts == ()
    assert len(batch.rejected) == 3


def test_a_fault_of_the_program_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FussyBackbone, "is_broken", True)
    with pytest.raises(ZeroDivisionError):
        GeneratorWorker(FussyModels(), InputLimits()).generate(numbered([request(0), request(1)]))
    unit = EvaluationUnit(cases=(case(0),), protocols=PROTOCOLS)
    with pytest.raises(ZeroDivisionError):
        EvaluationWorker(FussyModels()).prepare(unit)


def test_one_probe_does_not_stop_an_evaluation() -> None:
    good, other = case(0), case(1)
    probes = [
        Probe(kind=ProbeKind.TEXT_LOCALITY, prompt=prompt, target="")
        for prompt in ("In HTML, what does `<image>` stand for?", "layer", "aspect")
    ]
    asked = type(good)(case_id="odd", edit=good.edit, probes=(*probes, *good.probes))
    unit = EvaluationUnit(cases=(other, asked), protocols=PROTOCOLS, free_case_ids=("odd",))
    worker = EvaluationWorker(FussyModels())
    shared = SharedRepository.of(ExpertRepository.empty(CONFIG))
    scored = worker.evaluate(1, shared, unit)
    assert [(probe.case_id, probe.probe_index) for probe in scored.refused] == [
        ("odd", 1),
        ("odd", 2),
        ("odd", 3),
    ]
    assert "case odd, probe 1 (text_locality): a control token" in scored.refused[0].reason.message
    whole = EvaluationUnit(
        cases=(other, type(good)(case_id="odd", edit=good.edit, probes=good.probes)),
        protocols=PROTOCOLS,
        free_case_ids=("odd",),
    )
    expected = worker.evaluate(1, shared, whole)
    assert expected.refused == ()
    answers = [(one.case_id, one.protocol, one.answer_after) for one in scored.results]
    assert answers == [(one.case_id, one.protocol, one.answer_after) for one in expected.results]


class FussyEmbedder(HashEmbedder):
    is_broken = False

    def embed(self, images: list[bytes]) -> npt.NDArray[np.float32]:
        if self.is_broken or request(1).image_bytes in images:
            raise ZeroDivisionError("in the embedder")
        return super().embed(images)


def test_an_image_that_cannot_be_embedded_is_refused_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generated = GeneratorWorker(TinyModels(), InputLimits()).generate(
        numbered([request(number) for number in range(3)])
    )
    worker = ExpertEmbeddingWorker(FussyEmbedder)
    done = worker._embeddings(generated.experts)
    assert [isinstance(one, ZeroDivisionError) for one in done] == [False, True, False]
    monkeypatch.setattr(FussyEmbedder, "is_broken", True)
    with pytest.raises(ZeroDivisionError):
        worker._embeddings(generated.experts)


class _EndingError(InputError):
    ends_job = True


@pytest.mark.parametrize("error", [StorageUnavailableError("away"), _EndingError("")])
def test_what_is_of_no_input_is_raised(error: Exception) -> None:
    def act(items: Sequence[int]) -> list[int | Exception]:
        raise error

    with pytest.raises(type(error)):
        outcomes([1, 2], act, lambda: None)


def test_an_input_that_needs_more_memory_than_there_is_is_refused_alone() -> None:
    def act(items: Sequence[int]) -> list[int | Exception]:
        if 2 in items:
            raise MemoryError
        return list(items)

    one, two, three = outcomes([1, 2, 3], act, lambda: None)
    assert (one, three) == (1, 3)
    assert isinstance(two, MemoryError)
    assert Rejected.from_error(two).message == "it needs more memory than there is: make it smaller"


def test_without_memory_for_anything_the_work_fails() -> None:
    def act(items: Sequence[int]) -> list[int | Exception]:
        raise MemoryError

    with pytest.raises(MemoryError):
        outcomes([1, 2], act, lambda: act([0]))


def test_an_error_of_ours_that_is_none_of_the_input_asks_the_known_good_one() -> None:
    def act(items: Sequence[int]) -> list[int | Exception]:
        raise LiveEditError("a shape")

    def check_program() -> None:
        raise ConfigError("the processor does not fit the model")

    with pytest.raises(ConfigError):
        outcomes([1], act, check_program)
