"""The manifest of a registered bank version: where it is, its identity, the sha256 of each file.

These files never change once they are written; `content_problems` finds missing or altered ones.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Self

from pydantic import TypeAdapter, ValidationError

from infra.bank.expert_bank import ExpertBank
from infra.bank.schema import BankIdentity
from infra.storage.checksums import sha256_of
from infra.storage.object_store import ObjectStore
from liveedit_core.errors import IntegrityError


@dataclass(frozen=True, kw_only=True)
class BankContent:
    edits_sha256: str
    files: Mapping[str, str]
    """sha256 of each file by its key in the store."""

    @classmethod
    def of(cls, bank: ExpertBank, version: int) -> Self:
        """Digests of a version's files: the stored checksums; files without one are read."""
        files = {key: _written_digest(bank, key) for key in bank.file_keys(version)}
        return cls(edits_sha256=_edits_sha256(bank, version), files=files)


@dataclass(frozen=True, kw_only=True)
class BankManifest:
    """A registered version, as MLflow stores it."""

    store_uri: str
    bank: str
    bank_version: int
    committed_at: str
    num_edits: int
    identity: BankIdentity
    content: BankContent
    backbone: str
    """Name by which workers load the backbone; its digest is in `identity`."""
    backbone_dtype: str = "auto"

    @classmethod
    def of(
        cls, bank: ExpertBank, version: int, *, backbone: str, backbone_dtype: str = "auto"
    ) -> Self:
        """Describe a committed version; IntegrityError when it has no record or lacks a file."""
        record = bank.versions.record(version)
        return cls(
            store_uri=bank.store.root_uri,
            bank=bank.name,
            bank_version=version,
            committed_at=record.committed_at.isoformat(),
            num_edits=record.num_edits,
            identity=bank.identity,
            content=BankContent.of(bank, version),
            backbone=backbone,
            backbone_dtype=backbone_dtype,
        )

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, name: str) -> Self:
        """Read a manifest; IntegrityError when it is damaged. `name` is for the message."""
        try:
            return TypeAdapter(cls).validate_json(text, strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise IntegrityError(
                f"the manifest of {name} is damaged or was written by another release "
                f"({place}: {first['msg']}): register a newer bank version"
            ) from error

    def open_bank(self) -> ExpertBank:
        """The bank; RepositoryMismatchError if it was created anew with another identity."""
        bank = ExpertBank.open(ObjectStore(self.store_uri), self.bank)
        bank.identity.check_same(self.identity, self.bank)
        return bank

    def verified_bank(self, name: str) -> ExpertBank:
        """The bank, or an IntegrityError for `name` that lists missing and altered files."""
        bank = self.open_bank()
        if problems := content_problems(bank, self):
            raise IntegrityError(
                f"{name} is damaged and must not serve: {'; '.join(problems)}. Restore the files "
                "from a copy, or rebuild the bank from the request log under another name"
            )
        return bank


def content_problems(bank: ExpertBank, manifest: BankManifest) -> list[str]:
    """What is missing or altered in a registered version of `bank`."""
    expected = manifest.content.files
    try:
        found = set(bank.file_keys(manifest.bank_version))
    except IntegrityError as error:
        return [f"version {manifest.bank_version} of bank {bank.name!r}: {error.message}"]
    store = ObjectStore(manifest.store_uri)
    problems = [f"{key} was not part of the version" for key in sorted(found - set(expected))]
    problems += [f"{key} is no longer part of it" for key in sorted(set(expected) - found)]
    for key in sorted(found & set(expected)):
        try:
            is_same = sha256_of(store.get(key)) == expected[key]
        except IntegrityError:
            problems.append(f"{key} is missing")
            continue
        if not is_same:
            problems.append(f"{key} is altered, its sha256 differs")
    # A damaged file must not be parsed, so edits are compared only where all bytes are right.
    edits = manifest.content.edits_sha256
    if not problems and _edits_sha256(bank, manifest.bank_version) != edits:
        problems.append(f"version {manifest.bank_version} holds other edits")
    return problems


def _edits_sha256(bank: ExpertBank, version: int) -> str:
    return sha256_of("\n".join(bank.edit_ids(version)).encode())


def _written_digest(bank: ExpertBank, key: str) -> str:
    checksum = bank.checksums.read(key.removeprefix(bank.checksums.file_key("")))
    if checksum is not None and bank.store.exists(key):
        return checksum.sha256
    return sha256_of(bank.store.get(key))
