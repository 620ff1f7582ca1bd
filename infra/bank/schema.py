"""The identity of a bank, its rows, and their columns in Arrow."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from infra.storage.checksums import column_vectors as column_vectors
from infra.storage.checksums import is_vector as is_vector
from liveedit_core.errors import IntegrityError, NumericsError, RepositoryMismatchError, ShapeError

if TYPE_CHECKING:
    from liveedit_core.method.expert import Expert

_IDENTITY_KEY = b"liveedit.bank_identity"
_COLUMNS_BEFORE = {
    "has_own_ranks": False,
    "has_outcomes": False,
    "has_cut_prompts": False,
    "has_forms": False,
}
"""Of a bank whose identity does not say which columns it has."""
OUTCOME_COLUMNS = {
    "state": pa.string(),
    "reason": pa.string(),
    "refine_steps": pa.int32(),
    "num_target_tokens": pa.int32(),
    "answer": pa.string(),
}
"""What became of an edit (`WriteOutcome`)."""


@dataclass(frozen=True, kw_only=True)
class BankIdentity:
    """Everything that must be equal for two experts to be in one bank."""

    backbone_digest: str
    generator_digest: str
    edit_layer: int
    hidden_size: int
    module_dim: int
    num_queries: int
    rank: int
    embedding_model: str
    embedding_size: int
    visual_width: int = 0
    """Numbers of a visual feature; 0, as in a bank from before: those of a routing feature."""
    has_own_ranks: bool = True
    """Whether each expert has a rank of its own; `rank` is then that of the generator. In a bank
    from before, all have `rank`."""
    has_outcomes: bool = True
    """Whether rows say how their edit turned out (`WriteOutcome`); not in a bank from before."""
    has_cut_prompts: bool = True
    """Whether prompt features are stored up to their last number that is not zero, and the zeros
    after it are added on reading; a bank from before holds these too."""

    has_forms: bool = True
    """Whether rows hold the forms of experts (`Expert.forms_FX`); not in a bank from before."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "visual_width", self.visual_width or self.feature_size)

    @property
    def feature_size(self) -> int:
        """Width of a routing feature: Q * M."""
        return self.num_queries * self.module_dim

    def check_same(self, other: "BankIdentity", bank: str) -> None:
        """RepositoryMismatchError that names each field in which `other` differs.

        Which columns there are is up to the bank.
        """
        differences = [
            f"{item.name} is {getattr(self, item.name)!r} there, {getattr(other, item.name)!r} here"
            for item in fields(self)
            if item.name not in _COLUMNS_BEFORE
            and getattr(self, item.name) != getattr(other, item.name)
        ]
        if differences:
            raise RepositoryMismatchError(
                f"bank {bank!r} was made for something else: {'; '.join(differences)}. "
                "Use a bank of another name; it is rebuilt from the request log"
            )

    def schema(self) -> pa.Schema:
        """Columns of a bank; the identity is in the schema's metadata."""
        any_width = -1
        factor = any_width if self.has_own_ranks else self.rank * self.hidden_size
        widths = {
            "visual_feature": self.visual_width,
            "prompt_feature": any_width if self.has_cut_prompts else self.feature_size,
            "expert_down": factor,
            "expert_up": factor,
            "clip_embedding": self.embedding_size,
        }
        if self.has_forms:
            widths["forms"] = any_width
        columns: list[tuple[str, pa.DataType]] = [
            ("edit_id", pa.string()),
            ("sequence", pa.int64()),
            ("subject_id", pa.string()),
            *((name, pa.list_(pa.float32(), width)) for name, width in widths.items()),
            *([("rank", pa.int32())] if self.has_own_ranks else []),
            ("generator_digest", pa.string()),
            ("provenance", pa.string()),
            *(OUTCOME_COLUMNS.items() if self.has_outcomes else ()),
        ]
        return pa.schema(
            [pa.field(name, kind, nullable=False) for name, kind in columns],
            metadata={_IDENTITY_KEY: json.dumps(asdict(self)).encode()},
        )

    @classmethod
    def from_schema(cls, schema: pa.Schema, bank: str) -> Self:
        """The identity in `schema`; IntegrityError when the table is not a bank."""
        metadata: Mapping[bytes, bytes] = schema.metadata or {}
        try:
            stored: dict[str, Any] = json.loads(metadata[_IDENTITY_KEY])
            return cls(**{**_COLUMNS_BEFORE, **stored})
        except (KeyError, TypeError, ValueError) as error:
            raise IntegrityError(f"bank {bank!r} has no readable identity: {error!r}") from error


@dataclass(frozen=True, kw_only=True)
class ExpertRow:
    """One row of a bank: an expert, and where it comes from."""

    expert: "Expert"
    sequence: int
    subject_id: str
    clip_embedding: npt.NDArray[np.float32]
    """Image embedding [embedding_size]; zeros of a textual edit."""
    provenance: Mapping[str, str] = field(default_factory=dict)

    def vectors(self) -> dict[str, npt.NDArray[np.float32]]:
        return {
            "visual_feature": _flat(self.expert.visual_feature_QM.numpy()),
            "prompt_feature": _flat(self.expert.prompt_feature_QM.numpy()),
            "expert_down": _flat(self.expert.down_RD.numpy()),
            "expert_up": _flat(self.expert.up_RD.numpy()),
            "clip_embedding": _flat(self.clip_embedding),
            "forms": _flat(self.expert.forms_FX.numpy()),
        }

    def check(self, identity: BankIdentity) -> None:
        """Raise NumericsError or ShapeError for values that must not be stored."""
        self.expert.check_finite()
        rank = self.expert.rank
        if not identity.has_own_ranks and rank != identity.rank:
            raise ShapeError(
                f"edit {self.expert.edit_id} has rank {rank}, but this bank is from before experts "
                f"had ranks of their own: all have rank {identity.rank}. Use a bank of another "
                "name; it is rebuilt from the request log"
            )
        if len(self.expert.forms_FX) and not identity.has_forms:
            raise ShapeError(
                f"edit {self.expert.edit_id} has forms (refine.derived), but this bank is from "
                "before experts had any. Use a bank of another name; it is rebuilt from the "
                "request log"
            )
        widths = {
            "forms": self.expert.forms_FX.numel(),
            "visual_feature": identity.visual_width,
            "prompt_feature": identity.feature_size,
            "expert_down": rank * identity.hidden_size,
            "expert_up": rank * identity.hidden_size,
            "clip_embedding": identity.embedding_size,
        }
        for name, vector in self.vectors().items():
            if vector.size != widths[name]:
                raise ShapeError(
                    f"{name} of edit {self.expert.edit_id} has {vector.size} numbers, the bank "
                    f"stores {widths[name]}"
                )
        if not np.isfinite(self.clip_embedding).all():
            raise NumericsError(f"edit {self.expert.edit_id}: clip_embedding holds NaN or infinity")


def rows_to_table(identity: BankIdentity, rows: Sequence[ExpertRow]) -> pa.Table:
    """Checked rows (`ExpertRow.check`) as an Arrow table of the bank's schema."""
    for row in rows:
        row.check(identity)
    schema = identity.schema()
    columns: dict[str, object] = {
        "edit_id": [row.expert.edit_id for row in rows],
        "sequence": [row.sequence for row in rows],
        "subject_id": [row.subject_id for row in rows],
        "rank": [row.expert.rank for row in rows],
        "generator_digest": [identity.generator_digest] * len(rows),
        "provenance": [json.dumps(dict(row.provenance), sort_keys=True) for row in rows],
    }
    for name in OUTCOME_COLUMNS:
        field_name = "steps" if name == "refine_steps" else name
        columns[name] = [getattr(row.expert.outcome, field_name) for row in rows]
    vectors = [row.vectors() for row in rows]
    if identity.has_cut_prompts:
        for vector in vectors:
            vector["prompt_feature"] = _cut(vector["prompt_feature"])
    for column in schema:
        if is_vector(column.type):
            parts = [vector[column.name] for vector in vectors]
            flat = np.concatenate(parts)
            if pa.types.is_fixed_size_list(column.type):
                columns[column.name] = pa.FixedSizeListArray.from_arrays(flat, type=column.type)
            else:
                ends = np.cumsum([0, *(part.size for part in parts)], dtype=np.int32)
                columns[column.name] = pa.ListArray.from_arrays(ends, flat, type=column.type)
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def prompt_features(rows: pa.Table, identity: BankIdentity) -> list[npt.NDArray[np.float32]]:
    """Whole prompt features of some rows, [feature_size] each."""
    stored = column_vectors(rows, "prompt_feature")
    return [np.pad(vector, (0, identity.feature_size - vector.size)) for vector in stored]


def _cut(vector: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Without the zeros at its end; of a negative zero the sign would be lost, so it stays."""
    places = np.flatnonzero(vector.view(np.int32))
    return vector[: places[-1] + 1 if places.size else 0]


def _flat(array: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.ascontiguousarray(array, dtype=np.float32).reshape(-1)
