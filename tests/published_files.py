"""A made benchmark folder in the published layout: our own records, images of random pixels."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.unit.tiny_inputs import image

FILES = {
    ("evqa", "train"): "vqa_train.json",
    ("evqa", "evaluation"): "vqa_eval.json",
    ("eic", "train"): "caption_train_edit.json",
    ("eic", "evaluation"): "caption_eval_edit.json",
    ("vlkeb", "train"): "train.json",
    ("vlkeb", "evaluation"): "eval.json",
}
IMAGE_KEYS = ("image", "image_rephrase", "m_loc")


def record(number: int, **changed: Any) -> dict[str, Any]:
    """A record about its own images; two neighbours share the unrelated one."""
    return {
        "src": f"Which tool lies on bench {number}?",
        "pred": "a_saw",
        "rephrase": f"Name the tool that lies on bench {number}.",
        "alt": f"plane {number}",
        "image": f"bench{number}/front.png",
        "image_rephrase": f"bench{number}/side.png",
        "loc": f"nq question: who built boat {number}",
        "loc_ans": f"builder {number}",
        "m_loc": f"boats/boat{number // 2}.png",
        "m_loc_q": "What colour is the sail?",
        "m_loc_a": "red",
        **changed,
    }


def without(content: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A record that lacks a key."""
    return {name: value for name, value in content.items() if name != key}


def hop(number: int, question: str, answer: str) -> dict[str, Any]:
    """A portability question as VLKEB's multi-hop file has it."""
    return {"port_type": f"{number}-hop", "Q&A": {"Question": question, "Answer": answer}}


def write_json(path: Path, records: Sequence[object]) -> Path:
    """Write a JSON list."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


def draw_images(root: Path, records: Iterable[Mapping[str, Any]]) -> Path:
    """Draw every image that the records name, each different; returns the root."""
    paths = dict.fromkeys(content[key] for content in records for key in IMAGE_KEYS)
    for number, name in enumerate(paths):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image(number))
    return root


def benchmark_folder(
    folder: Path, name: str, num_records: int = 4, split: str = "evaluation"
) -> Path:
    """A folder with the file of one split and its images beside it; returns the folder."""
    records = [record(number) for number in range(num_records)]
    write_json(folder / FILES[name, split], records)
    draw_images(folder, records)
    return folder
