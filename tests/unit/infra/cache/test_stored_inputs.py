"""Inputs come back from a store as they were written, wherever they are read."""

import pickle
from pathlib import Path

import pytest

from infra.cache import stored_inputs
from infra.cache.stored_inputs import ChosenInputs, StoredInputs
from infra.storage.object_store import ObjectStore
from liveedit_core.backbones.protocol import BackboneInput

INPUTS = [
    BackboneInput(prompt="Was ist das für ein Ding?", target="Zürich", image_bytes=b"one"),
    BackboneInput(prompt="The capital of France is", target="Paris"),
    BackboneInput(prompt="Who?", image_bytes=b"one"),
    BackboneInput(prompt="Who?", target="x", image_bytes=b"another"),
]


@pytest.mark.parametrize("piece_bytes", [7, 10_000])
def test_inputs_come_back(
    piece_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_inputs, "_PIECE_BYTES", piece_bytes)
    store = ObjectStore(tmp_path)
    stored = StoredInputs(store, "inputs")
    assert not stored.exists()
    stored.write(INPUTS)
    assert stored.exists()
    read = pickle.loads(pickle.dumps(stored))
    assert list(read) == INPUTS
    assert read[1:3] == INPUTS[1:3]
    chosen = pickle.loads(pickle.dumps(ChosenInputs(stored, (3, 0))))
    assert list(chosen) == [INPUTS[3], INPUTS[0]]
    pieces = [store.get(f"inputs/{number}") for number in range(len(store.list("inputs/")) - 1)]
    assert b"".join(pieces).count(b"one") == 1, "each image once"
    with pytest.raises(IndexError):
        read[4]
    stored.delete()
    assert store.list("inputs/") == []
    StoredInputs(store, "nothing").write([])
    assert list(StoredInputs(store, "nothing")) == []
