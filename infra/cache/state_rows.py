"""States as rows of two tables: states, and the pyramids of their images.

A pyramid is stored once, however many prompts are about its image. Tensors are bytes in the dtype
of the identity, as Arrow has no bfloat16.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from infra.cache.content_table import WrittenRows
from infra.storage.tables import Table, not_null
from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.devices import CPU, moved
from liveedit_core.method.config import StateDtype
from liveedit_core.state_source import StateIdentity
from liveedit_core.states import NO_PYRAMIDS, LayerStates

_DTYPES: Mapping[StateDtype, torch.dtype] = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
}
_ROUNDED = ("hidden_TD", "pyramid_E", "prompt_embeddings", "target_embeddings_OD")

STATE_SCHEMA = not_null(
    state_id=pa.string(),
    image_id=pa.string(),
    spans=pa.list_(pa.int32(), 6),
    target_ids=pa.list_(pa.int64()),
    hidden=pa.large_binary(),
    target_embeddings=pa.large_binary(),
    grid=pa.list_(pa.int32()),
    num_bytes=pa.int64(),
)
"""`image_id` is "" for a text-only input; `spans` are those of image, prompt and target; `grid`
is empty for families whose positions do not depend on it."""

PROMPT_STATE_SCHEMA = STATE_SCHEMA.append(
    pa.field("prompt_embeddings", pa.large_binary(), nullable=False)
)
"""Of a backbone with prompt templates; its states have a table of their own."""

IMAGE_SCHEMA = not_null(image_id=pa.string(), pyramid=pa.large_binary(), num_bytes=pa.int64())


@dataclass(frozen=True)
class WrittenStates:
    """What a worker wrote and no version shows yet."""

    states: tuple[WrittenRows, ...]
    images: tuple[WrittenRows, ...]
    num_states: int
    num_bytes: int


@dataclass(frozen=True)
class StateWriter:
    """What a worker needs to write states; picklable, holds no credentials."""

    states: Table
    images: Table
    identity: StateIdentity

    def write(
        self, inputs: Sequence[BackboneInput], states: Sequence[LayerStates]
    ) -> WrittenStates:
        """Write the states of distinct inputs that are finite in the dtype of the cache."""
        dtype = self.identity.dtype
        pairs = moved(
            [
                (item, _in_dtype(state, dtype))
                for item, state in zip(inputs, states, strict=True)
                if _can_hold(state, dtype)
            ],
            CPU,
        )
        rows = [_state_row(self.identity, item, state) for item, state in pairs]
        images = {
            item.image_bytes: state.pyramid_E
            for item, state in pairs
            if item.image_bytes is not None
        }
        image_rows = [
            _image_row(self.identity, image, pyramid_E) for image, pyramid_E in images.items()
        ]
        return WrittenStates(
            states=_write(self.states, rows, state_schema(self.identity), "state_id"),
            images=_write(self.images, image_rows, IMAGE_SCHEMA, "image_id"),
            num_states=len(rows),
            num_bytes=sum(row["num_bytes"] for row in [*rows, *image_rows]),
        )


def state_schema(identity: StateIdentity) -> pa.Schema:
    """Columns of a table of states."""
    return PROMPT_STATE_SCHEMA if identity.prompt_size else STATE_SCHEMA


def _write(
    table: Table, rows: Sequence[Mapping[str, Any]], schema: pa.Schema, key: str
) -> tuple[WrittenRows, ...]:
    return WrittenRows.write(table, pa.Table.from_pylist(list(rows), schema=schema), key)


def _state_row(identity: StateIdentity, item: BackboneInput, state: LayerStates) -> dict[str, Any]:
    """Of a state in the dtype of the cache."""
    hidden = _to_bytes(state.hidden_TD)
    embeddings = _to_bytes(state.target_embeddings_OD)
    prompts = _to_bytes(state.prompt_embeddings_WP)
    image = item.image_bytes
    return {
        "state_id": identity.state_id(item),
        "image_id": "" if image is None else identity.image_id(image),
        "spans": [*state.image_span, *state.prompt_span, *state.target_span],
        "target_ids": state.target_ids_O.tolist(),
        "hidden": hidden,
        "target_embeddings": embeddings,
        "grid": list(state.grid or ()),
        "num_bytes": len(hidden) + len(embeddings) + len(prompts),
        "prompt_embeddings": prompts,
    }


def _image_row(identity: StateIdentity, image: bytes, pyramid_E: Tensor) -> dict[str, Any]:
    pyramid = _to_bytes(pyramid_E)
    return {"image_id": identity.image_id(image), "pyramid": pyramid, "num_bytes": len(pyramid)}


def to_pyramids(rows: pa.Table, dtype: StateDtype) -> dict[str, Tensor]:
    """The pyramid of each image id, float32 [E], from rows of `IMAGE_SCHEMA`."""
    columns = (rows.column(name).to_pylist() for name in ("image_id", "pyramid"))
    return {name: _to_tensor(data, dtype) for name, data in zip(*columns, strict=True)}


def to_states(
    rows: pa.Table, pyramids: Mapping[str, Tensor], identity: StateIdentity
) -> dict[str, LayerStates]:
    """States by id from rows of `state_schema`, without those whose image's row is missing."""
    return {
        row["state_id"]: _to_state(row, pyramids, identity)
        for row in rows.to_pylist()
        if not row["image_id"] or row["image_id"] in pyramids
    }


def _to_state(
    row: Mapping[str, Any], pyramids: Mapping[str, Tensor], identity: StateIdentity
) -> LayerStates:
    size, dtype = identity.hidden_size, identity.dtype
    prompts = _to_tensor(row.get("prompt_embeddings", b""), dtype)
    image_start, image_stop, start, stop, target_start, target_stop = row["spans"]
    return LayerStates(
        hidden_TD=_to_tensor(row["hidden"], dtype).view(-1, size),
        pyramid_E=pyramids[row["image_id"]] if row["image_id"] else torch.zeros(0),
        prompt_embeddings=prompts.view(-1, identity.prompt_size) if len(prompts) else NO_PYRAMIDS,
        target_embeddings_OD=_to_tensor(row["target_embeddings"], dtype).view(-1, size),
        image_span=(image_start, image_stop),
        prompt_span=(start, stop),
        target_span=(target_start, target_stop),
        target_ids_O=torch.tensor(row["target_ids"], dtype=torch.int64),
        grid=tuple(row["grid"]) or None,
    )


def _to_tensor(data: bytes, dtype: StateDtype) -> Tensor:
    if not data:
        return torch.zeros(0)
    return torch.frombuffer(bytearray(data), dtype=_DTYPES[dtype]).float()


def _can_hold(state: LayerStates, dtype: StateDtype) -> bool:
    return all(bool(getattr(state, name).to(_DTYPES[dtype]).isfinite().all()) for name in _ROUNDED)


def rounded(state: LayerStates, dtype: StateDtype) -> LayerStates:
    """A state as it comes back from the cache; one that cannot be stored stays as it is."""
    if not _can_hold(state, dtype):
        return state
    stored = _in_dtype(state, dtype)
    return replace(state, **{name: getattr(stored, name).float() for name in _ROUNDED})


def _in_dtype(state: LayerStates, dtype: StateDtype) -> LayerStates:
    kind = _DTYPES[dtype]
    return replace(state, **{name: getattr(state, name).to(kind) for name in _ROUNDED})


def _to_bytes(tensor: Tensor) -> bytes:
    data: bytes = tensor.contiguous().view(torch.uint8).numpy().tobytes()
    return data
