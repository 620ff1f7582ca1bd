"""The subject assigner: decides what the edits of a window are about, before it is committed.

An edit that corrects an older one takes over its subject; banks hold the newest edit of each. It
does so if it asks the same by content, or if it has another target and

- the image is the same: equal pixels, or the visual key says so and the thumbnails agree; textual
  edits have the same one, none;
- the prompts mean the same: equal, or each passes the prompt gate of the other.

Edits are compared with those that the bank holds and with earlier ones of the window. The decision
is stored before the commit (`SubjectLog`): a window that is repeated after a crash, and another
bank of the store, find it there. Only visual features, and prompt features of textual edits, are
in memory, read once and then kept up to date from the records of the bank; a window costs one
product with them.

Owns: these features of the edits that the bank holds. Receives: what the edits of a window ask
    (`AskedEdit`), by reference from the embedding workers. Returns: their subjects. It also merges
    the files of a window, so that no expert passes through the driver.
When it dies: nothing is lost. It is restarted, reads the features again, and finds in the store
    what it had decided.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import ray
import torch
from torch import Tensor

from infra.bank.expert_bank import ExpertBank
from infra.bank.history import BankVersion
from infra.bank.reconciliation import all_held
from infra.bank.schema import column_vectors, prompt_features
from infra.requests.request_index import RequestIndex
from infra.requests.request_log import RequestLog
from infra.requests.subject_log import SubjectAssignment
from infra.storage.object_store import ObjectStore
from infra.storage.tables import read_errors, select_in
from liveedit_core.inputs.contrasts import ask_apart
from liveedit_core.inputs.same_question import (
    have_equal_names,
    looks_alike,
    normalized_prompt,
    pixel_digest,
    thumbnail,
)
from liveedit_core.method.corrections import passes_gate, same_image
from liveedit_core.method.routing import has_image, similarity
from liveedit_core.schema import NO_IMAGE, EditRequest
from workers.failures import converted_failures
from workers.messages import AskedEdit, GeneratorFacts


class SubjectAssigner:
    """Assigns subjects for the one committer of a bank."""

    @converted_failures
    def __init__(self, store: ObjectStore, bank: str, facts: GeneratorFacts) -> None:
        self._bank = ExpertBank.open(store, bank)
        self._log = RequestLog(store)
        self._facts = facts
        self._held = HeldFeatures(self._bank)

    def stream(self, windows: Iterable[Sequence[Any]]) -> Iterator[dict[str, str]]:
        """The interface of `WorkerPool`, in this process; what edits ask may come by reference."""
        for window in windows:
            asked = (ray.get(i) if isinstance(i, ray.ObjectRef) else i for i in window)
            yield self.assign(*asked)

    def close(self) -> None:
        """Nothing to release."""

    @converted_failures
    def run(self, action: Callable[[], Any]) -> Any:
        """What a commit does with files of rows: see `ExpertBank.commit`."""
        return action()

    @converted_failures
    def assign(self, *batches: Sequence[AskedEdit]) -> dict[str, str]:
        """The subject of each edit of a window; what is undecided is decided and stored."""
        edits = [item for batch in batches for item in batch]
        if self._log.subjects.is_empty():
            # First, so that what another bank holds is not decided again for this one.
            self._log.subjects.append(list(_adopted(self._bank)))
        decided = self._log.subjects.decided([item.sequence for item in edits])
        new = sorted(
            (item for item in edits if item.sequence not in decided), key=lambda e: e.sequence
        )
        if new:
            self._held.read_changes()
            window = _Window(self._bank, self._log, self._facts, self._held, new)
            self._log.subjects.append(
                list(window.decide()),
                generator_digest=self._facts.generator_digest,
                prompt_questions={
                    item.edit_id: item.question.prompt_QM.flatten().tolist()
                    for item in new
                    if item.question
                },
            )
        self._held.expect(edits)
        return self._log.subjects_of([item.edit_id for item in edits])


def _adopted(bank: ExpertBank) -> Iterator[SubjectAssignment]:
    """Edits that were committed before subjects were assigned keep theirs."""
    names = {key.split("/")[1] for key in bank.store.list("banks/")}
    for name in sorted(names):
        for key in all_held(ExpertBank.open(bank.store, name).dataset()).values():
            yield SubjectAssignment(
                sequence=key.sequence, edit_id=key.edit_id, subject_id=key.subject_id
            )


class HeldFeatures:
    """Visual features of the edits that a bank holds, and prompt features of textual ones."""

    def __init__(self, bank: ExpertBank) -> None:
        self._bank = bank
        self._version = -1
        self._expected: dict[str, AskedEdit] = {}
        self._features_NK = torch.empty(0, 0)
        self.edit_ids: list[str] = []
        """By row; "" where an edit has left."""
        self._row_of: dict[str, int] = {}
        self.textual: dict[str, Tensor] = {}
        """Prompt features of textual edits, [K]."""

    def visual_features(self) -> Tensor:
        """By row, [N, K]."""
        return self._features_NK[: len(self.edit_ids)]

    def __contains__(self, edit_id: str) -> bool:
        return edit_id in self._row_of

    def expect(self, edits: Sequence[AskedEdit]) -> None:
        """The next version may add these."""
        self._expected |= {item.edit_id: item for item in edits}

    def read_changes(self) -> None:
        """Follow the records of the bank; read its rows if one of them added anything unknown."""
        newest = self._bank.version
        records = self._newer_records(newest) if self._version >= 0 else []
        added = {edit_id for record in records for edit_id in record.added}
        if self._version < 0 or not added <= self._expected.keys():
            self._read_all(newest)
            records = []
        for record in reversed(records):
            for edit_id in record.removed:
                self.edit_ids[self._row_of.pop(edit_id)] = ""
                self.textual.pop(edit_id, None)
            for edit_id in record.added:
                self._add(edit_id, self._expected[edit_id])
        self._version = newest
        self._expected = {}

    def _newer_records(self, newest: int) -> list[BankVersion]:
        records = self._bank.versions.newest_first(newest)
        return list(itertools.takewhile(lambda record: record.version > self._version, records))

    def _read_all(self, version: int) -> None:
        rows = self._bank.load_rows(["edit_id", "visual_feature"], version)
        vectors = column_vectors(rows, "visual_feature")
        self._features_NK = torch.from_numpy(np.stack(vectors)) if vectors else torch.empty(0, 0)
        self.edit_ids = rows.column("edit_id").to_pylist()
        self._row_of = {edit_id: row for row, edit_id in enumerate(self.edit_ids)}
        texts = (~has_image(self._features_NK)).nonzero().flatten().tolist() if vectors else []
        self.textual = {}
        if texts:
            wanted, names = [self.edit_ids[row] for row in texts], ["edit_id", "prompt_feature"]
            with read_errors(self._bank.uri):
                found = select_in(self._bank.dataset(version), names, "edit_id", wanted)
            prompts = map(torch.from_numpy, prompt_features(found, self._bank.identity))
            self.textual = dict(zip(found.column("edit_id").to_pylist(), prompts, strict=True))

    def _add(self, edit_id: str, item: AskedEdit) -> None:
        row, feature_K = len(self.edit_ids), item.visual_feature_QM.flatten()
        if is_textual(item):
            self.textual[edit_id] = item.prompt_feature_QM.flatten()
        if row == len(self._features_NK):
            larger = torch.zeros(max(2 * row, 64), len(feature_K))
            larger[:row] = self._features_NK[:row] if row else 0.0
            self._features_NK = larger
        self._features_NK[row] = feature_K
        self.edit_ids.append(edit_id)
        self._row_of[edit_id] = row


class _Window:
    """The undecided edits of one window, by sequence."""

    def __init__(
        self,
        bank: ExpertBank,
        log: RequestLog,
        facts: GeneratorFacts,
        held: HeldFeatures,
        edits: Sequence[AskedEdit],
    ) -> None:
        self._bank, self._log, self._facts, self._held = bank, log, facts, held
        self._edits = edits
        self._index = RequestIndex()
        """Of these edits, and of all that show their images."""
        self._own = {item.edit_id: item for item in edits}
        self._subjects: dict[str, str] = {}
        """Decided here so far, by edit."""
        self._holder: dict[str, tuple[int, str]] = {}
        """Newest edit of each subject, of those decided here."""
        self._requests: dict[str, EditRequest] = {}

    def decide(self) -> Iterator[SubjectAssignment]:
        """One assignment for each edit."""
        images_of = self._alike()
        self._index = self._log.index_of(self._own)
        self._index = self._log.index_of(
            set(self._own).union(*images_of.values()),
            pixel_digests=set(self._index.image_of.values()) - {NO_IMAGE},
        )
        for item in self._edits:
            key = self._index.keys[item.sequence]
            subject_id, likeness = self._equal(item), 1.0
            if not subject_id:
                subject_id, likeness = self._meant(item, images_of.get(item.edit_id, set()))
            subject_id = subject_id or key.subject_id
            number, older = self._newest_of(subject_id)
            is_newer = bool(older) and older != item.edit_id and number < item.sequence
            self._subjects[item.edit_id] = subject_id
            self._holder[subject_id] = max((number, older), (item.sequence, item.edit_id))
            yield SubjectAssignment(
                sequence=item.sequence,
                edit_id=item.edit_id,
                subject_id=subject_id,
                supersedes=older if is_newer else "",
                similarity=likeness if is_newer else 0.0,
            )

    def _equal(self, item: AskedEdit) -> str:
        """The subject of an edit that asks the same by content, or of this edit itself; or ""."""
        if item.edit_id in self._subjects:
            return self._subjects[item.edit_id]
        key = self._index.keys[item.sequence]
        if item.edit_id in self._index.decided:
            return key.subject_id
        earlier = self._index.earlier_of_subject(key)
        return self._subject_of(earlier.edit_id) if earlier else ""

    def _subject_of(self, edit_id: str) -> str:
        return self._subjects.get(edit_id) or self._index.subjects([edit_id])[edit_id]

    def _newest_of(self, subject_id: str) -> tuple[int, str]:
        """The held edit of a subject, before this one is; (0, "") if there is none."""
        if subject_id in self._holder:
            return self._holder[subject_id]
        numbered = self._index.edits_of.get(subject_id, [])
        held = [pair for pair in numbered if pair[1] in self._held]
        return held[-1] if held else (0, "")

    def _alike(self) -> dict[str, set[str]]:
        """The edits whose image is that of each edit, by the visual key; of a textual edit the
        textual ones whose prompt gate its question passes."""
        found: dict[str, set[str]] = {}
        texts = {e.edit_id: e.prompt_feature_QM.flatten() for e in self._edits if is_textual(e)}
        for item in self._edits:
            if item.edit_id in texts and item.question:
                others = self._held.textual | texts
                prompts_NK = torch.stack(list(others.values()))
                likeness_N = similarity(item.question.prompt_QM[None], prompts_NK)[0]
                passes = passes_gate(likeness_N, self._facts.config)
                found[item.edit_id] = {k for k, is_in in zip(others, passes, strict=True) if is_in}
        return found | self._of_same_image()

    def _of_same_image(self) -> dict[str, set[str]]:
        asked = [e for e in self._edits if e.question and math.isfinite(e.question.own_margin)]
        questions = [item.question for item in asked if item.question]
        if not asked:
            return {}
        config = self._facts.config
        own_BK = torch.stack([item.visual_feature_QM.flatten() for item in self._edits])
        own_ids = [item.edit_id for item in self._edits]
        groups = [(own_ids, own_BK)]
        if self._held.edit_ids:
            groups.append((self._held.edit_ids, self._held.visual_features()))
        found: dict[str, set[str]] = {}
        for ids, features_NK in groups:
            for item, places in zip(asked, same_image(questions, features_NK, config), strict=True):
                found.setdefault(item.edit_id, set()).update(ids[place] for place in places)
        return {edit_id: ids - {""} for edit_id, ids in found.items()}

    def _meant(self, item: AskedEdit, alike: set[str]) -> tuple[str, float]:
        """Subject and similarity of the edit that this one corrects in other words; ("", 0)."""
        pixels = "" if is_textual(item) else self._index.image_of.get(item.sequence, "")
        equal = {other for _, other in self._index.edits_of_image.get(pixels, ())}
        others = {
            other
            for other in (alike | equal) - {item.edit_id}
            if (other in self._subjects or other in self._held)
            and self._newest_of(self._subject_of(other))[1] == other
        }
        if not others:
            return "", 0.0
        for logged in self._log.find({item.edit_id, *others} - self._requests.keys()):
            self._requests[logged.request.edit_id] = logged.request
        found = []
        for other in sorted(others & self._requests.keys()):  # one may be lost
            likeness = self._similarity(item, other)
            if likeness > 0:
                found.append((likeness, self._newest_of(self._subject_of(other))[0], other))
        if not found:
            return "", 0.0
        likeness, _, best = max(found)
        return self._subject_of(best), likeness

    def _similarity(self, item: AskedEdit, other: str) -> float:
        """How much two edits with the same image mean the same; 0 if one corrects not the other."""
        new, old = self._requests[item.edit_id], self._requests[other]
        if new.target == old.target or ask_apart(new.prompt, old.prompt):
            return 0.0
        if new.image_bytes is None and not have_equal_names(new.prompt, old.prompt):
            return 0.0
        is_equal = pixel_digest(new) == pixel_digest(old)
        if not is_equal and not looks_alike(thumbnail(new.image_bytes), thumbnail(old.image_bytes)):
            return 0.0
        if normalized_prompt(new.prompt) == normalized_prompt(old.prompt):
            return 1.0
        if item.question is None:
            return 0.0
        feature_K, question_K = self._prompts_of(other)
        own_K = item.prompt_feature_QM.flatten()
        shape = item.question.prompt_QM.shape
        sides = [similarity(item.question.prompt_QM[None], feature_K[None])[0, 0]]
        if question_K is not None:
            sides.append(similarity(question_K.reshape(1, *shape), own_K[None])[0, 0])
        smaller = torch.stack(sides).min()
        return float(smaller.sigmoid()) if passes_gate(smaller, self._facts.config) else 0.0

    def _prompts_of(self, edit_id: str) -> tuple[Tensor, Tensor | None]:
        """Edit-side and input-side prompt feature, [K]; the latter if this generator asked it."""
        if edit_id in self._own:
            own = self._own[edit_id]
            question = own.question.prompt_QM.flatten() if own.question else None
            return own.prompt_feature_QM.flatten(), question
        dataset, subjects = self._bank.dataset(), [self._subject_of(edit_id)]
        with read_errors(self._bank.uri):
            rows = select_in(dataset, ["edit_id", "prompt_feature"], "subject_id", subjects)
        vectors = prompt_features(rows, self._bank.identity)
        features = dict(zip(rows.column("edit_id").to_pylist(), vectors, strict=True))
        digest = self._facts.generator_digest
        stored = self._log.subjects.prompt_questions([edit_id], digest).get(edit_id)
        question = None if stored is None else torch.tensor(stored)
        return torch.from_numpy(features[edit_id]), question


def is_textual(item: AskedEdit) -> bool:
    """Whether an edit has no image."""
    return not bool(has_image(item.visual_feature_QM.flatten()))


SubjectActor = ray.remote(SubjectAssigner)
