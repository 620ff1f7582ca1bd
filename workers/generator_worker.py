"""The generator worker: requests in, experts out.

Owns: one frozen backbone and one trained generator, both loaded when it starts; no other state.
    With a state cache it reads the hidden states of known edits and adds those of new ones.
Receives: numbers of requests, which it reads from the log.
Returns: an expert or a refusal for each of them. A request that fails (too many tokens, an image
    that cannot be decoded, NaN in its expert, its question not answered) is a refusal and does not
    affect the others.
When it dies: nothing is lost. The pool restarts the process and sends the unfinished batches again.
    An expert depends on its own request only, so the result is the same.
"""

import time
from collections.abc import Iterable, Iterator, Sequence

import ray

from infra.requests.request_reader import RequestReader
from liveedit_core.devices import CPU, moved
from liveedit_core.errors import IntegrityError, NumericsError
from liveedit_core.inputs.datasets import (
    check_known_good,
    known_good,
    validate_request,
    validate_tokens,
)
from liveedit_core.inputs.limits import InputLimits
from liveedit_core.inputs.rejects import Rejected, WeakEditError
from liveedit_core.method.config import RefineSection, WeakEdits
from liveedit_core.method.editor import Editor, check_has_image, edit_input
from liveedit_core.method.expert import Expert
from liveedit_core.method.forms.writing import form_writer_for
from liveedit_core.method.refine import refiner_for
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.schema import EditRequest
from workers.failures import converted_failures, outcomes
from workers.messages import GeneratedBatch, GeneratedExpert, GeneratorFacts, NumberedRequest
from workers.models import CacheNames, ModelSource, limit_threads, open_states


class GeneratorWorker:
    """Writes experts with a backbone and a generator held in memory."""

    @converted_failures
    def __init__(
        self,
        models: ModelSource,
        limits: InputLimits,
        *,
        refine: RefineSection | None = None,
        weak: WeakEdits = "refuse",
        num_threads: int = 1,
        cache: CacheNames | None = None,
    ) -> None:
        """Load the models; without a `cache` all states are computed."""
        limit_threads(num_threads)
        self._backbone = models.load_backbone()
        self._generator = models.load_generator()
        self._limits = limits.for_generator(self._generator.config.max_target_tokens)
        nothing = ExpertRepository.empty(self._generator.config)
        models_used, refine = (self._backbone, self._generator), refine or RefineSection()
        refiner = refiner_for(*models_used, refine)
        form_writer = form_writer_for(*models_used, refiner, refine)
        self._editor = Editor(*models_used, nothing, refiner, form_writer=form_writer)
        self._weak = weak
        self._requests: RequestReader | None = None
        self._states = open_states(self._backbone, cache, one_by_one=refiner is not None)

    def describe(self) -> GeneratorFacts:
        """The models of this worker."""
        return GeneratorFacts.of(self._backbone, self._generator)

    @converted_failures
    def generate(self, batch: Sequence[NumberedRequest]) -> GeneratedBatch:
        """Write the experts of a micro-batch of at least one request."""
        start_s, refiner = time.perf_counter(), self._editor.refiner
        refined_s = refiner.seconds if refiner else 0.0
        accepted: list[NumberedRequest] = []
        rejected: list[Rejected] = []
        checked = outcomes(batch, self._checked, self._check_checks)
        for item, fault in zip(batch, checked, strict=True):
            if isinstance(fault, Exception):
                rejected.append(refusal_of(item.request.edit_id, fault))
            else:
                accepted.append(item)
        experts: list[GeneratedExpert] = []
        for item, outcome in self._outcomes(accepted):
            if isinstance(outcome, Expert) and self._weak == "refuse":
                outcome = right_or_error(outcome, item.request)
            if isinstance(outcome, Expert):
                experts.append(
                    GeneratedExpert(sequence=item.sequence, request=item.request, expert=outcome)
                )
            else:
                rejected.append(refusal_of(item.request.edit_id, outcome))
        return GeneratedBatch(
            experts=moved(tuple(experts), CPU),
            rejected=tuple(rejected),
            last_sequence=max(item.sequence for item in batch),
            duration_s=time.perf_counter() - start_s,
            refine_s=refiner.seconds - refined_s if refiner else 0.0,
        )

    @converted_failures
    def generate_logged(
        self, sequences: Sequence[int], requests: RequestReader
    ) -> tuple[int, GeneratedBatch]:
        """As `generate`, of requests of the log; the first part of the answer is for the driver:
        the bytes of the other."""
        if self._requests is None or self._requests.table.uri != requests.table.uri:
            self._requests = requests  # its table is open
        batch = self.generate(read_batch(self._requests, sequences))
        return batch.num_bytes, batch

    def stream(
        self, batches: Iterable[Sequence[int]], requests: RequestReader
    ) -> Iterator[GeneratedBatch]:
        """The interface of `WorkerPool`, in this process."""
        return (self.generate_logged(batch, requests)[1] for batch in batches)

    def close(self) -> None:
        """Nothing to release."""

    def _check(self, request: EditRequest) -> None:
        """Raise what is wrong with a request before any model reads it."""
        check_has_image(request, self._generator)
        validate_request(request, limits=self._limits)
        validate_tokens(request, self._backbone, limits=self._limits)
        self._backbone.check_input(edit_input(request))

    def _checked(self, items: Sequence[NumberedRequest]) -> list[NumberedRequest | Exception]:
        for item in items:
            self._check(item.request)
        return list(items)

    def _check_checks(self) -> None:
        """Raise what is wrong with the checks themselves."""
        check_known_good()
        self._backbone.check_input(edit_input(known_good()))

    def _outcomes(
        self, items: Sequence[NumberedRequest]
    ) -> list[tuple[NumberedRequest, Expert | Exception]]:
        """The expert or error of each accepted request."""
        done = outcomes(items, self._write, self._check_models)
        return list(zip(items, done, strict=True))

    def _write(self, items: Sequence[NumberedRequest]) -> list[Expert | Exception]:
        requests = [item.request for item in items]
        states = self._states.states([edit_input(request) for request in requests])
        experts = self._editor.write_experts(requests, states)
        return [finite_or_error(expert) for expert in experts]

    def _check_models(self) -> None:
        """Raise what is wrong with models and program."""
        good = known_good()
        states = self._backbone.encode([edit_input(good)])
        self._editor.write_experts([good], states)


def read_batch(requests: RequestReader, sequences: Sequence[int]) -> list[NumberedRequest]:
    """Requests of the log; IntegrityError if it lacks one of them."""
    found = [
        NumberedRequest(sequence=logged.sequence, request=logged.request)
        for logged in requests.read(sequences)
    ]
    if len(found) != len(sequences):
        lost = sorted(set(sequences) - {item.sequence for item in found})
        raise IntegrityError(f"the request log has no request {lost[0]}")
    return found


def refusal_of(edit_id: str, error: Exception) -> Rejected:
    """The reject of a request that failed."""
    return Rejected.from_error(error, edit_id=edit_id)


def finite_or_error(expert: Expert) -> Expert | NumericsError:
    """The expert, or the error if it is not finite."""
    try:
        expert.check_finite()
    except NumericsError as error:
        return error
    return expert


def right_or_error(expert: Expert, request: EditRequest) -> Expert | WeakEditError:
    """The expert, or the error if it is weak."""
    if expert.outcome.state == "weak":
        return WeakEditError(expert.outcome, request.target)
    return expert


GeneratorActor = ray.remote(GeneratorWorker)
