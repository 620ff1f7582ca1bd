"""Generator checkpoints of training runs in the object store, content-addressed.

generators/<digest>/generator.safetensors, config.json   what `load_generator` opens
generators/<digest>/runs/<run>/resume.safetensors        optimizer moments of the run that wrote it
generators/<digest>/runs/<run>/position.json             phase and step of the run
generators/<digest>/runs/<run>/published.json            final result of the run, never deleted
generator_runs/<run>.json                                the run's list: its last k and its best

Objects are written before the list names them and deleted after it no longer does, so a process
killed at any moment leaves a list of whole checkpoints; the next save deletes leftovers. Weights
that two runs reach are deleted with the last run's folder below them.
"""

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from infra.storage.object_store import ObjectStore
from liveedit_core.errors import ConfigError, IntegrityError
from liveedit_core.method.generator import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    LiveEditGenerator,
    digest_of,
    save_generator,
)

ROOT = "generators"
_RESUME_FILE = "resume.safetensors"
_POSITION_FILE = "position.json"


@dataclass(frozen=True, kw_only=True)
class CheckpointEntry:
    digest: str
    phase: str
    step: int
    score: float | None = None
    """Validation average, higher is better; None if not measured."""


@dataclass(frozen=True, kw_only=True)
class Position:
    """Phase and step of a run, its training curve and its seconds so far."""

    phase: str
    step: int
    seed: int
    recipe_digest: str
    curve: Sequence[Mapping[str, Any]]
    seconds: float = 0.0
    """Trained so far, without preparing and validating; 0 where it was not recorded."""

    def check_same_run(self, *, seed: int, recipe_digest: str) -> None:
        if (self.seed, self.recipe_digest) != (seed, recipe_digest):
            raise ConfigError(
                f"the checkpoint at {self.phase} {self.step} was made with seed {self.seed} and "
                f"recipe {self.recipe_digest[:12]}, now seed {seed} and recipe "
                f"{recipe_digest[:12]}: a resumed run keeps its recipe; give the new one another "
                "run_name"
            )


@dataclass(frozen=True, kw_only=True)
class ResumeState:
    """What a run needs to resume, except the weights, which `fetch` downloads."""

    entry: CheckpointEntry
    position: Position
    moments: dict[str, Tensor]


class GeneratorCheckpoints:
    """Checkpoints of one run; keeps the newest `last_k` and the best. One writer at a time."""

    def __init__(self, store: ObjectStore, run_name: str, *, last_k: int = 3) -> None:
        if not run_name or "/" in run_name or run_name in (".", ".."):
            raise ConfigError(f"run_name must be a plain name, got {run_name!r}")
        if last_k < 1:
            raise ConfigError(f"last_k must be at least 1, got {last_k}")
        self.store = store
        self.run_name = run_name
        self.last_k = last_k
        self._list_key = f"generator_runs/{run_name}.json"

    def save(
        self,
        generator: LiveEditGenerator,
        moments: Mapping[str, Tensor],
        position: Position,
        score: float | None = None,
    ) -> CheckpointEntry:
        """Store a checkpoint, then delete those that are neither among the last k nor the best.

        The generator must be whole (not sharded), in training precision.
        """
        entries = self.entries()
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            digest = save_generator(generator, folder)
            old = next((e for e in entries if e.digest == digest), None)
            entries = [e for e in entries if e is not old]
            if old is None or (old.phase, old.step) != (position.phase, position.step):
                if old is not None:
                    self._write_list(entries)  # its position is about to be overwritten
                    old = None
                self._put_all(digest, folder, moments, position)
        if score is None and old is not None:
            score = old.score
        phase, step = position.phase, position.step
        entry = CheckpointEntry(digest=digest, phase=phase, step=step, score=score)
        entries = self._kept([*entries, entry])
        self._write_list(entries)
        self._sweep({e.digest for e in entries})
        return entry

    def publish(self, folder: Path) -> str:
        """Store a generator folder as the run's result, never to be deleted; returns its digest."""
        digest = digest_of(folder)
        marker = json.dumps({"run_name": self.run_name}).encode()
        self.store.put(f"{self._run_folder(digest)}/published.json", marker)
        self._put_weights(digest, folder)
        return digest

    def entries(self) -> list[CheckpointEntry]:
        """The run's checkpoints, oldest first."""
        if not self.store.exists(self._list_key):
            return []
        try:
            content = json.loads(self.store.get(self._list_key))
            return [CheckpointEntry(**entry) for entry in content["checkpoints"]]
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError(f"{self._list_key} in {self.store.root_uri}: {error}") from error

    def last(self) -> CheckpointEntry | None:
        entries = self.entries()
        return entries[-1] if entries else None

    def best(self) -> CheckpointEntry | None:
        """The checkpoint with the highest score, the newest of equals; None if none has one."""
        return best_of(self.entries())

    def fetch(self, digest: str, folder: Path) -> Path:
        """Download weights and config into a folder for `load_generator`; returns the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            (folder / name).write_bytes(self.store.get(f"{ROOT}/{digest}/{name}"))
        found = digest_of(folder)
        if found != digest:
            for name in (CONFIG_FILE, WEIGHTS_FILE):
                (folder / name).unlink()
            raise IntegrityError(
                f"generator checkpoint {digest[:16]} in {self.store.root_uri}: its bytes have "
                f"digest {found[:16]}; they were altered. Resume from another checkpoint"
            )
        return folder

    def resume(self) -> ResumeState | None:
        """The newest checkpoint, if any; IntegrityError when a part of it is missing or altered."""
        entry = self.last()
        if entry is None:
            return None
        folder = self._run_folder(entry.digest)
        data = self.store.get(f"{folder}/{_RESUME_FILE}")
        try:
            values = json.loads(self.store.get(f"{folder}/{_POSITION_FILE}"))
            expected = values.pop("resume_sha256")
            position = Position(**values)
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError(f"{folder}/{_POSITION_FILE}: {error!r}") from error
        if hashlib.sha256(data).hexdigest() != expected:
            raise IntegrityError(f"{folder}/{_RESUME_FILE}: altered, its sha256 differs")
        try:
            moments = load(data)
        except SafetensorError as error:
            raise IntegrityError(f"{folder}/{_RESUME_FILE}: {error}") from error
        return ResumeState(entry=entry, position=position, moments=moments)

    def _run_folder(self, digest: str) -> str:
        return f"{ROOT}/{digest}/runs/{self.run_name}"

    def _put_all(
        self, digest: str, folder: Path, moments: Mapping[str, Tensor], position: Position
    ) -> None:
        """Moments first: they mark the weights as in use. Position last."""
        data = save({name: tensor.contiguous() for name, tensor in moments.items()})
        self.store.put(f"{self._run_folder(digest)}/{_RESUME_FILE}", data)
        self._put_weights(digest, folder)
        values = {**asdict(position), "resume_sha256": hashlib.sha256(data).hexdigest()}
        text = json.dumps(values, sort_keys=True)
        self.store.put(f"{self._run_folder(digest)}/{_POSITION_FILE}", text.encode())

    def _put_weights(self, digest: str, folder: Path) -> None:
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            self.store.put(f"{ROOT}/{digest}/{name}", (folder / name).read_bytes())

    def _kept(self, entries: Sequence[CheckpointEntry]) -> list[CheckpointEntry]:
        best = best_of(entries)
        first_kept = len(entries) - self.last_k
        return [e for i, e in enumerate(entries) if i >= first_kept or e is best]

    def _write_list(self, entries: Sequence[CheckpointEntry]) -> None:
        content = {"checkpoints": [asdict(entry) for entry in entries]}
        self.store.put(self._list_key, json.dumps(content, indent=2).encode())

    def _sweep(self, kept: set[str]) -> None:
        """Delete this run's part of all other checkpoints, and weights that no run uses."""
        own = f"/runs/{self.run_name}/"
        keys = self.store.list(f"{ROOT}/")
        dropped = {key.split("/")[1] for key in keys if own in key} - kept
        for digest in dropped:
            mine = [f"{self._run_folder(digest)}/{n}" for n in (_POSITION_FILE, _RESUME_FILE)]
            used = [k for k in keys if k.startswith(f"{ROOT}/{digest}/runs/") and k not in mine]
            if not used:
                mine += [f"{ROOT}/{digest}/{name}" for name in (WEIGHTS_FILE, CONFIG_FILE)]
            for key in mine:
                self.store.delete(key)


def best_of(entries: Sequence[CheckpointEntry]) -> CheckpointEntry | None:
    """The entry with the highest score, the newest of equals; None if none has a score."""
    scored = [(e.score, index) for index, e in enumerate(entries) if e.score is not None]
    return entries[max(scored)[1]] if scored else None
