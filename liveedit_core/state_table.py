"""Many `LayerStates` in little memory: flat float16 rows, each picture's pyramid once."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from liveedit_core.states import LayerStates

SPAN_COLUMNS = 8
"""rows start, rows stop, image stop, prompt stop, target start, target stop, ids start, picture."""


class StateTable:
    """Append-only table; rows are float16 at rest and float32 when read.

    Rows at l_e of a small backbone are exact to about 1e-3 in float16, far below what the
    generator resolves; float32 would double the memory.
    """

    def __init__(self) -> None:
        self._hidden: list[Tensor] = []
        self._ids: list[Tensor] = []
        self._embeddings: list[Tensor] = []
        self._pictures: list[Tensor] = []
        self._picture_index: dict[bytes, int] = {}
        self._spans: list[list[int]] = []
        self._num_rows = 0
        self._num_ids = 0

    def __len__(self) -> int:
        return len(self._spans)

    def append(self, state: LayerStates, picture: bytes | None) -> int:
        """Store one state and return its index; `picture` (encoded bytes) names its pyramid."""
        picture_row = -1
        if picture is not None:
            picture_row = self._picture_index.setdefault(picture, len(self._pictures))
            if picture_row == len(self._pictures):
                self._pictures.append(state.pyramid_E.half())
        rows = state.num_tokens
        self._spans.append(
            [
                self._num_rows,
                self._num_rows + rows,
                state.image_span[1],
                state.prompt_span[1],
                state.target_span[0],
                state.target_span[1],
                self._num_ids,
                picture_row,
            ]
        )
        self._hidden.append(state.hidden_TD.half())
        self._ids.append(state.target_ids_O)
        self._embeddings.append(state.target_embeddings_OD.half())
        self._num_rows += rows
        self._num_ids += len(state.target_ids_O)
        return len(self) - 1

    def __getitem__(self, index: int) -> LayerStates:
        """The state at a position, in float32."""
        _, _, image_stop, prompt_stop, target_start, target_stop, _, picture = self._spans[index]
        pyramid = self._pictures[picture] if picture >= 0 else torch.zeros(0)
        return LayerStates(
            hidden_TD=self._hidden[index].float(),
            pyramid_E=pyramid.float(),
            target_embeddings_OD=self._embeddings[index].float(),
            image_span=(0, image_stop),
            prompt_span=(image_stop, prompt_stop),
            target_span=(target_start, target_stop),
            target_ids_O=self._ids[index],
        )

    def save(self, path: Path) -> None:
        """Write all as one safetensors file."""
        tensors = {
            "hidden": torch.cat(self._hidden),
            "ids": torch.cat(self._ids),
            "embeddings": torch.cat(self._embeddings),
            "pictures": torch.stack(self._pictures),
            "spans": torch.tensor(self._spans, dtype=torch.int64),
        }
        save_file(tensors, path)

    @classmethod
    def load(cls, path: Path) -> "StateTable":
        """Inverse of `save`; tables that were loaded are not appended to."""
        tensors = load_file(path)
        table = cls()
        table._spans = tensors["spans"].tolist()
        rows = [span[1] - span[0] for span in table._spans]
        ids = [span[5] - span[4] for span in table._spans]
        table._hidden = list(tensors["hidden"].split(rows))
        table._ids = list(tensors["ids"].split(ids))
        table._embeddings = list(tensors["embeddings"].split(ids))
        table._pictures = list(tensors["pictures"])
        return table
