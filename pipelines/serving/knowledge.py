"""Edits as the API knows them: the request log, the change log and the bank beside each other.

Everything here is durable before it is answered. What changes a bank is done by the one writer of
that bank, the editing loop: here the decision is logged, which is what every writer obeys.
"""

import io
import threading
import uuid
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch

from infra.bank.edit_states import edit_events, edit_outcomes, edit_states
from infra.bank.expert_bank import ExpertBank
from infra.requests.request_log import RequestHeader, RequestLog
from infra.storage.object_store import ObjectStore
from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.errors import InputError
from liveedit_core.inputs.datasets import validate_tokens
from liveedit_core.inputs.images import decode_image
from liveedit_core.method.editor import check_has_image, edit_input
from liveedit_core.schema import NO_IMAGE, EditRequest
from pipelines.serving.versions import VersionStore

THUMBNAIL_SIDE = 192


class UnknownEditError(InputError):
    """The request log has no such edit."""


@dataclass(frozen=True, kw_only=True)
class EditQuery:
    """Which edits to list; newest first."""

    text: str = ""
    """In prompt, target or edit id, in any case."""
    submitter: str = ""
    state: str = ""
    offset: int = 0
    limit: int = 20


@dataclass(frozen=True)
class Knowledge:
    """The edits of one store."""

    versions: VersionStore

    @cached_property
    def _lock(self) -> threading.RLock:
        return threading.RLock()

    @property
    def _bank(self) -> ExpertBank | None:
        return self.versions.bank

    @cached_property
    def _logs(self) -> dict[str, RequestLog]:
        """By store; a promotion may lead to the bank of another one."""
        return {}

    @property
    def _store(self) -> ObjectStore:
        bank = self._bank
        return bank.store if bank else ObjectStore(self.versions.recipe.store_uri)

    @property
    def _log(self) -> RequestLog:
        store = self._store
        if store.root_uri not in self._logs:
            store.check_exclusive_create()
            self._logs[store.root_uri] = RequestLog(store)
        return self._logs[store.root_uri]

    def check(self, request: EditRequest) -> None:
        """Raise what is wrong with an edit that was read; the generator may still refuse it."""
        config = self.versions.generator.config
        limits = self.versions.recipe.limits.for_generator(config.max_target_tokens)
        check_has_image(request, self.versions.generator)
        validate_tokens(request, self.versions.backbone, limits=limits)
        self.versions.backbone.check_input(edit_input(request))

    def submit(self, requests: Sequence[EditRequest], occasion: str = "") -> list[dict[str, Any]]:
        """Log edits; each is stored when this returns. The same edit again changes nothing, unless
        a later one of its image and question overtook it: then its author came back to it. Within
        one `occasion` that is decided once."""
        with self._lock:
            source = f"http {occasion or uuid.uuid4().hex}"
            admissions = self._log.append(requests, source=source)
            removed = self._log.changes.removed()
        return [
            {
                "id": item.edit_id,
                "object": "edit",
                "status": "accepted",
                "is_new": not item.is_duplicate,
                "is_removed": item.edit_id in removed,
                "supersedes": item.supersedes,
            }
            for item in admissions
        ]

    def find(self, query: EditQuery) -> dict[str, Any]:
        """A page of edits, newest first."""
        if not self._exists():
            return _page([], query, 0)
        with self._lock:
            headers = self._log.headers(submitter=query.submitter)[::-1]
            wanted = query.text.casefold()
            found = [
                item
                for item in headers
                if wanted in f"{item.prompt}\n{item.target}\n{item.edit_id}".casefold()
            ]
            if query.state:
                states = edit_states(found, self._log, self._bank)
                found = [item for item in found if states[item.sequence] == query.state]
            shown = found[query.offset : query.offset + query.limit]
            return _page(self._described(shown), query, len(found))

    def _exists(self) -> bool:
        return self._store.root_uri in self._logs or RequestLog.exists(self._store)

    def _described(self, headers: Sequence[RequestHeader]) -> list[dict[str, Any]]:
        states = edit_states(headers, self._log, self._bank)
        outcomes = edit_outcomes(headers, states, self._log, self._bank)
        return [
            {
                "id": item.edit_id,
                "object": "edit",
                "state": states[item.sequence],
                "has_image": item.pixel_digest != NO_IMAGE,
                "prompt": item.prompt,
                "target": item.target,
                "also_asked": item.also_asked,
                "submitter": item.submitter,
                "submitted_at": item.submitted_at.isoformat(),
                "supersedes": item.supersedes,
                "outcome": asdict(outcome) if (outcome := outcomes.get(item.sequence)) else None,
            }
            for item in headers
        ]

    def edit(self, edit_id: str) -> dict[str, Any]:
        """One edit with its history."""
        with self._lock:
            header = self._header(edit_id)
            banks = [self._bank] if self._bank else []
            events = [
                {**event._asdict(), "time": event.time.isoformat()}
                for event in edit_events(header, self._log, banks)
            ]
            return {**self._described([header])[0], "history": events}

    def _header(self, edit_id: str) -> RequestHeader:
        found = self._log.headers(edit_ids=[edit_id]) if self._exists() else []
        if not found:
            raise UnknownEditError(f"there is no edit {edit_id[:80]!r}")
        return found[-1]

    def thumbnail(self, edit_id: str) -> bytes:
        """The edit's image as a small PNG, drawn anew from its pixels."""
        with self._lock:
            self._header(edit_id)
            logged = next(self._log.find([edit_id]), None)
        if logged is None:
            raise UnknownEditError(f"the request of edit {edit_id[:80]!r} is lost")
        if logged.request.image_bytes is None:
            raise UnknownEditError(f"edit {edit_id[:80]!r} has no image")
        image = decode_image(logged.request.image_bytes)
        image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return buffer.getvalue()

    @torch.no_grad()
    def similar(self, image: bytes, limit: int) -> dict[str, Any]:
        """The edits of the current version whose images are most like this one."""
        editor = self.versions.current.editor
        if editor is None or not len(editor.repository):
            return _page([], EditQuery(limit=limit), 0)
        (states,) = editor.backbone.encode([BackboneInput(prompt="?", image_bytes=image)])
        near = editor.route([states], compared_U=editor.nearest(states, limit))
        scores = near.visual_BN[0, ~near.is_textual_N].tolist()
        places = near.position_N[~near.is_textual_N.cpu()].tolist()
        of_edit = dict(zip((editor.repository.edit_ids[n] for n in places), scores, strict=True))
        best = sorted(of_edit, key=lambda key: -of_edit[key])[:limit]
        with self._lock:
            headers = {item.edit_id: item for item in self._log.headers(edit_ids=best)}
            rows = self._described([headers[key] for key in best if key in headers])
        rows = [{**row, "image_similarity": round(of_edit[row["id"]], 4)} for row in rows]
        return _page(rows, EditQuery(limit=limit), len(rows))

    def change(self, edit_id: str, *, is_removal: bool, author: str, reason: str) -> dict[str, Any]:
        """Log a removal or restoration; the bank follows with its writer's next look."""
        with self._lock:
            header = self._header(edit_id)
            bank = self._bank
            changed: dict[str, Collection[str]] = {
                "removed" if is_removal else "restored": [header.edit_id]
            }
            self._log.changes.append(
                "remove" if is_removal else "restore",
                **changed,
                bank=bank.name if bank else "",
                author=author,
                reason=reason,
            )
            return self._described([header])[0]


def _page(rows: list[dict[str, Any]], query: EditQuery, total: int) -> dict[str, Any]:
    end = query.offset + len(rows)
    return {
        "object": "list",
        "data": rows,
        "total": total,
        "has_more": end < total,
        "next_offset": end if end < total else None,
    }
