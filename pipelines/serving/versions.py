"""Which version answers a name: loaded beside the others, verified, then switched to.

    liveedit            the champion; without one the newest version of the bank; else unedited
    liveedit@newest     the newest version of the bank
    liveedit@v12        version 12 of the bank
    liveedit@TAG        the version with this tag
    liveedit@unedited   the frozen model

A request gets its version at arrival and holds it to its last token; what is replaced is freed when
the last request lets go of it. A version that cannot be verified is never switched to.
"""

import logging
import re
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

from infra.bank.expert_bank import ExpertBank
from infra.bank.manifest import BankManifest
from infra.requests.logged_facts import MAX_KNOWN
from infra.storage.object_store import ObjectStore
from infra.storage.tables import Table
from liveedit_core.backbones.vision_language import VisionLanguageBackbone, as_vision_language
from liveedit_core.errors import (
    ConfigError,
    InputError,
    IntegrityError,
    LiveEditError,
    RepositoryMismatchError,
)
from liveedit_core.method.editor import Editor
from liveedit_core.method.generator import LiveEditGenerator, load_generator
from pipelines.job.registered_models import fetch_generator, registered_models
from pipelines.serving.champion import ChampionSource
from pipelines.serving.recipe import ServeRecipe
from pipelines.serving.served import UNEDITED, ExpertCache, ServedVersion, unedited
from workers.models import ModelNames, ModelSource

MODEL = "liveedit"
NEWEST = "newest"
DEFAULT_BANK = "main"
_NUMBER = re.compile(r"v([0-9]{1,9})")
_logger = logging.getLogger(__name__)


class UnknownModelError(InputError):
    """No model of this name."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A version that is to be served, not loaded yet."""

    bank: ExpertBank
    version: int
    registered: int = 0
    manifest: BankManifest | None = None

    @property
    def key(self) -> tuple[str, int]:
        return self.bank.uri, self.version


@dataclass(kw_only=True, eq=False)
class VersionStore:
    """All versions that are in memory; safe for several threads."""

    recipe: ServeRecipe
    champions: ChampionSource
    backbone: VisionLanguageBackbone
    generator: LiveEditGenerator
    """That of the recipe, or of the champion at the start."""
    current: ServedVersion = field(init=False)
    problem: str = ""
    """Why the version that should answer does not; "" if it does."""
    num_switches: int = 0
    _loaded: OrderedDict[tuple[str, int], ServedVersion] = field(default_factory=OrderedDict)
    _verified: set[str] = field(default_factory=set)
    _refreshing: threading.Lock = field(default_factory=threading.Lock)
    _loading: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self.current = self._unedited = unedited()
        self._experts = ExpertCache(self.recipe.versions.expert_cache_bytes)
        self._bank: ExpertBank | None = None
        self._champion = 0
        """Registered version whose bank that is."""

    @classmethod
    def opened(cls, recipe: ServeRecipe, models: ModelSource | None = None) -> "VersionStore":
        """Load the models of the champion, else those of the recipe, and the first version."""
        champions = ChampionSource(Path(recipe.run_root), recipe.operations_uri)
        models = models or _models(recipe, champions)
        store = cls(
            recipe=recipe,
            champions=champions,
            backbone=as_vision_language(models.load_backbone()),
            generator=models.load_generator(),
        )
        store._follow()  # at the start there is no older version that could stay
        return store

    @property
    def bank(self) -> ExpertBank | None:
        """The bank that is served and edited: the champion's, else the one that the recipe names.
        None until there is one."""
        if self._bank is None:
            self._bank = _bank_of(self.recipe)
        return self._bank

    def refresh(self) -> None:
        """Look at champion and bank, and switch if they ask for another version."""
        with self._refreshing:
            try:
                self._follow()
                self.problem = ""
            except LiveEditError as error:
                if error.message != self.problem:
                    _logger.error("version %s stays: %s", self.current.name, error.message)
                self.problem = error.message
            except Exception as error:  # whatever a store raises must not end the looking
                problem = f"the version cannot be read ({type(error).__name__})"
                if problem != self.problem:
                    _logger.exception("version %s stays", self.current.name)
                self.problem = problem

    def _follow(self) -> None:
        target = self._target()
        version = self._load(target) if target else self._unedited
        if version is not self.current:
            _logger.info("version %s answers now, before: %s", version.name, self.current.name)
            self.current = version
            self.num_switches += 1

    def _target(self) -> Target | None:
        champion = self.champions.explained()
        if champion is None:
            return self._newest()
        manifest = self.champions.manifest(champion)
        if self._bank is None or champion.version != self._champion:
            self._bank, self._champion = manifest.open_bank(), champion.version
        return Target(
            bank=self._bank,
            version=manifest.bank_version,
            registered=champion.version,
            manifest=manifest,
        )

    def _newest(self) -> Target | None:
        bank = self.bank
        if bank is None:
            return None
        version = bank.version
        return Target(bank=bank, version=version) if bank.num_edits(version) else None

    def named(self, model: str) -> ServedVersion:
        """The version behind the name of a model; UnknownModelError if there is none."""
        name, _, label = model.partition("@")
        if name != MODEL or model.endswith("@"):
            raise UnknownModelError(f"there is no model {model[:100]!r}; GET /v1/models lists them")
        if not label:
            return self.current
        if label == UNEDITED:
            return self._unedited
        if label == NEWEST:
            target = self._newest()
            return self._load(target) if target else self._unedited
        return self._load(self._asked(model, label))

    def _asked(self, model: str, label: str) -> Target:
        bank, number = self.bank, _NUMBER.fullmatch(label)
        tags = {} if bank is None or number else bank.versions.tags()
        version = int(number[1]) if number else tags.get(label, 0)
        if bank is None or not version or not bank.has_version(version):
            raise UnknownModelError(f"there is no model {model[:100]!r}; GET /v1/models lists them")
        return Target(bank=bank, version=version)

    def _load(self, target: Target) -> ServedVersion:
        """The version in memory; its files are verified when it is loaded."""
        with self._loading:
            found = self._loaded.get(target.key)
            is_known = found is not None and found.registered >= target.registered
            version = found if found is not None and is_known else self._read(target)
            self._loaded[target.key] = version
            self._loaded.move_to_end(target.key)
            while len(self._loaded) > self.recipe.versions.max_loaded + 1:
                oldest = next(key for key, v in self._loaded.items() if v is not self.current)
                del self._loaded[oldest]
            return version

    def _read(self, target: Target) -> ServedVersion:
        bank, number, name = target.bank, target.version, f"v{target.version}"
        if bank.identity.backbone_digest != self.backbone.digest:
            raise RepositoryMismatchError(
                f"{name} of bank {bank.name!r} was made with another backbone than the one that "
                "is loaded; start the server again to serve it"
            )
        if target.manifest is not None:
            target.manifest.verified_bank(f"version {target.registered} of liveedit-bank")
        else:
            self._verify(bank, number)
        generator = self._generator_of(bank)
        repository = bank.load_repository(generator.config, number, matrices="on_demand")
        before = self.current.editor
        if before is not None and before.generator is generator:
            editor = before.with_repository(repository)
        else:
            mode = self.recipe.versions.index
            editor = Editor(self.backbone, generator, repository, index=mode)
        editor.prepare()
        if repository.fact_source is not None and len(repository) <= MAX_KNOWN:
            repository.fact_source.facts_of(repository.held_ids)  # no answer waits for the log
        record = bank.versions.state_at(number)
        return ServedVersion(
            name=name,
            bank=bank.uri,
            bank_name=bank.name,
            bank_version=number,
            registered=target.registered,
            num_edits=len(repository),
            committed_at=record.committed_at if record else None,
            generator_digest=generator.digest,
            editor=editor,
            experts=self._experts,
        )

    def _verify(self, bank: ExpertBank, version: int) -> None:
        """Compare files with the checksums that were written with them; they never change, so each
        is read once."""
        for key in bank.file_keys(version):
            if key in self._verified:
                continue
            checksum = bank.checksums.read(key.removeprefix(bank.checksums.file_key("")))
            problem = checksum.problem_of(bank.store.get(key)) if checksum else ""
            if problem:
                raise IntegrityError(f"v{version} of bank {bank.name!r}: {key} {problem}")
            self._verified.add(key)

    def _generator_of(self, bank: ExpertBank) -> LiveEditGenerator:
        digest = bank.identity.generator_digest
        current = self.current.editor
        for known in (self.generator, current.generator if current else None):
            if known is not None and known.digest == digest:
                return known
        if not self.champions.exists:
            raise RepositoryMismatchError(
                f"bank {bank.name!r} was written by the generator {digest[:16]}, that of the "
                f"recipe is {self.generator.digest[:16]}; name its folder: generator.checkpoint=DIR"
            )
        cache = Path(self.recipe.run_root) / "serve" / "generators"
        return load_generator(fetch_generator(self.champions.versions, digest, cache))


def _models(recipe: ServeRecipe, champions: ChampionSource) -> ModelNames:
    champion = champions.explained()
    if champion is None:
        return ModelNames(
            backbone=recipe.backbone.name,
            generator=recipe.generator.checkpoint,
            options=recipe.loaded_backbone.options(),
        )
    manifest = champions.manifest(champion)
    cache = Path(recipe.run_root) / "serve" / "generators"
    folder = fetch_generator(champions.versions, manifest.identity.generator_digest, cache)
    return registered_models(manifest, generator=str(folder), device=recipe.loaded_backbone.device)


def _bank_of(recipe: ServeRecipe) -> ExpertBank | None:
    """The bank that the recipe means; ConfigError where its store has several."""
    store, name = ObjectStore(recipe.store_uri), recipe.bank.name
    if not name:
        names = sorted({key.split("/")[1] for key in store.list("banks/")})
        if len(names) > 1:
            raise ConfigError(f"name the bank: bank.name=..., one of {', '.join(names)}")
        name = names[0] if names else DEFAULT_BANK
    exists = Table(store, f"banks/{name}").exists()
    return ExpertBank.open(store, name) if exists else None


@dataclass(frozen=True)
class LoopNote:
    """Why the editing loop of a bank ended by itself: its process writes it, replicas in other
    processes read it."""

    store: ObjectStore
    bank: str

    @property
    def _key(self) -> str:
        return f"editing_loops/{self.bank}.txt"

    def write(self, problem: str) -> None:
        """ "" while the loop runs."""
        try:
            if problem:
                self.store.put(self._key, problem.encode())
            else:
                self.store.delete(self._key)
        except LiveEditError as error:
            _logger.warning("replicas are not told how the editing loop fares: %s", error.message)

    def read(self) -> str:
        """ "" too while the store does not answer: `VersionStore.problem` says that."""
        try:
            is_there = self.store.exists(self._key)
            return self.store.get(self._key).decode(errors="replace") if is_there else ""
        except LiveEditError:
            return ""
