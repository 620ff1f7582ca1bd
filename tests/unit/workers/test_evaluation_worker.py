"""Prepared once, cases are scored against any repository."""

from liveedit_core.limits import InputLimits
from liveedit_core.repository import ExpertRepository
from liveedit_core.schema import ProbeKind
from tests.unit.tiny_inputs import case
from tests.unit.tiny_models import CONFIG, TinyModels
from workers.evaluation_worker import EvaluationWorker
from workers.generator_worker import GeneratorWorker
from workers.messages import NumberedRequest

CASES = [case(number) for number in range(3)]


def repository() -> ExpertRepository:
    requests = [NumberedRequest(sequence=n + 1, request=c.edit) for n, c in enumerate(CASES)]
    batch = GeneratorWorker(TinyModels(), InputLimits()).generate(requests)
    return ExpertRepository.from_experts(CONFIG, [item.expert for item in batch.experts])


def test_an_empty_repository_changes_no_answer() -> None:
    worker = EvaluationWorker(TinyModels())
    preparation = worker.prepare(CASES, ("teacher_forced",))
    scores = worker.score(preparation, ExpertRepository.empty(CONFIG), ("teacher_forced",))
    assert len(scores.results) == 3 * 4
    assert all(result.answer_after == result.answer_before for result in scores.results)


def test_each_protocol_scores_what_it_can() -> None:
    worker = EvaluationWorker(TinyModels())
    both = ("teacher_forced", "free_generation")
    scores = worker.score(worker.prepare(CASES, both), repository(), both)
    kinds = {protocol: set[ProbeKind]() for protocol in both}
    for result in scores.results:
        kinds[result.protocol].add(result.kind)
    assert ProbeKind.TEXT_LOCALITY in kinds["teacher_forced"]
    assert kinds["free_generation"] == {ProbeKind.RELIABILITY, ProbeKind.TEXT_GENERALITY}
    assert scores.prepare_s > 0
