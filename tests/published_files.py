"""A made benchmark folder in the published layout: our own records, images of random pixels."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    ("cckeb", "train"): "CCKEB_train.json",
    ("cckeb", "evaluation"): "CCKEB_eval.json",
    ("mmke", "train"): "data_json/entity/train.json",
    ("mmke", "evaluation"): "data_json/entity/eval.json",
    ("comprehendedit", "train"): "ComprehendEdit_train.json",
    ("comprehendedit", "evaluation"): "ComprehendEdit_test.json",
}
IMAGE_KEYS = (
    "image",
    "image_rephrase",
    "m_loc",
    "one_hop_img",
    "multimodal_locality_image",
)


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


def cckeb_record(number: int, **changed: Any) -> dict[str, Any]:
    """The same with a second edit, without an image, and a question that needs both."""
    textual = {
        "src": f"Who makes plane {number}?",
        "pred": ["Ann"],
        "alt": ["Bo", f"Bell {number}"],
        "rephrase": f"Name the maker of plane {number}.",
        "loc": f"who built mill {number}",
        "loc_ans": f"miller {number}",
    }
    question = f"Who makes the tool on bench {number}?"
    comp = {"port_type": "comp", "Q&A": {"Question": question, "Answer": f"Bo Bell {number}"}}
    return record(number, **{"textual_edit": textual, "port_new": [comp]} | changed)


def mmke_record(number: int, task: str = "entity_level", **changed: Any) -> dict[str, Any]:
    """A record of one of the three tasks: a description is taught, and asked about."""
    kinds = ("",) if task == "visual_knowledge" else ("_1", "_2")
    asked = {
        key: value
        for n in kinds
        for key, value in {
            f"rel{n}": f"Where is plane {number} from{n}?",
            f"rel_ans{n}": f"Rome{n}",
            f"m_rel{n}": f"Whose is this{n}?",
            f"m_rel_ans{n}": f"Ann{n}",
        }.items()
    }
    if task != "entity_level":
        asked["one_hop_img"] = f"hops/hop{number}.png"
    if task == "visual_knowledge":
        asked["image_rephrase_question"] = f"Whose is the other one {number}?"
    about = {"knowledge_type": task, "alt": f"It is plane {number}."}
    ports = [hop(1, f"Who lives where plane {number} is from?", "Romans")]
    return record(number, **{"port_new": ports} | about | asked | changed)


def comprehend_record(number: int, source: str = "GQA", **changed: Any) -> dict[str, Any]:
    """A record without neighbours."""
    return {
        "image": f"{source}/images/{number}.png",
        "question": f"Which tool lies on bench {number}?",
        "rephrase": f"Name the tool that lies on bench {number}.",
        "answer": f"plane {number}",
        "source": source,
        "Category": "object recognition",
        "pid": number,
        "locality_prompt": f"who built boat {number}",
        "locality_ground_truth": f"builder {number}",
        "multimodal_locality_image": f"val2014/boat{number // 2}.png",
        "multimodal_locality_prompt": "What colour is the sail?",
        "multimodal_locality_ground_truth": "red",
        **changed,
    }


def neighbours(num_records: int, num_right: int) -> dict[str, list[int]]:
    """Lists of neighbours as the test file has them: every sample, in two orders."""
    return {
        f"{prefix}{likeness}_{place}topk": list(range(count))[:: -1 if likeness == "txt" else 1]
        for prefix, count in (("", num_records), ("ori_rt_", num_right))
        for likeness in ("img", "txt")
        for place in ("", "last_")
    }


MAKERS: Mapping[str, Callable[[int], dict[str, Any]]] = {
    "cckeb": cckeb_record,
    "mmke": mmke_record,
    "comprehendedit": comprehend_record,
}
"""Records of the benchmarks that have their own; `record` makes those of the others."""


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
    paths = dict.fromkeys(
        content[key] for content in records for key in IMAGE_KEYS if key in content
    )
    for number, name in enumerate(paths):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image(number))
    return root


def benchmark_folder(
    folder: Path, name: str, num_records: int = 4, split: str = "evaluation"
) -> Path:
    """A folder with the file of one split and its images beside it; returns the folder."""
    records = [MAKERS.get(name, record)(number) for number in range(num_records)]
    others: list[dict[str, Any]] = []
    if (name, split) == ("comprehendedit", "evaluation"):
        others = [comprehend_record(100 + number, "TallyQA", pid=number) for number in range(3)]
        write_json(folder / "ComprehendEdit_ori_right.json", others)
        for content in records:
            content |= neighbours(num_records, len(others))
    write_json(folder / FILES[name, split], records)
    draw_images(folder, [*records, *others])
    return folder
