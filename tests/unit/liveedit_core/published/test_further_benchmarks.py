"""CCKEB, MMKE-Bench and ComprehendEdit: what their own loaders teach and ask."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from liveedit_core.errors import InputError
from liveedit_core.inputs.datasets import load_cases
from liveedit_core.inputs.limits import InputLimits
from liveedit_core.inputs.rejects import Rejected
from liveedit_core.published.benchmark import PublishedBenchmark, open_benchmark
from liveedit_core.published.conversion import write_cases
from liveedit_core.schema import Case, ProbeKind
from tests.published_files import (
    MAKERS,
    benchmark_folder,
    cckeb_record,
    comprehend_record,
    draw_images,
    hop,
    mmke_record,
    neighbours,
    without,
    write_json,
)


def opened(
    folder: Path,
    name: str,
    contents: list[dict[str, Any]],
    right: list[dict[str, Any]] | None = None,
    **options: Any,
) -> PublishedBenchmark:
    """A benchmark of some records, and perhaps samples that were answered rightly."""
    folder.mkdir(exist_ok=True)
    files = [write_json(folder / "file.json", contents)]
    if right is not None:
        files.append(write_json(folder / "ComprehendEdit_ori_right.json", right))
    root = draw_images(folder / "root", [*contents, *(right or [])])
    return open_benchmark(name, files, root, **options)


def asked(case: Case, root: Path) -> list[tuple[str, str, str, str, str]]:
    """Kind, variant, prompt, target and image of each probe."""
    names = {path.read_bytes(): str(path.relative_to(root)) for path in root.rglob("*.png")}
    return [
        (item.kind.value, item.variant, item.prompt, item.target, names[item.image_bytes])
        if item.image_bytes is not None
        else (item.kind.value, item.variant, item.prompt, item.target, "")
        for item in case.probes
    ]


@pytest.mark.parametrize("name", MAKERS)
def test_cases_come_back_equal_after_conversion(tmp_path: Path, name: str) -> None:
    folder = benchmark_folder(tmp_path / "data", name)
    files = sorted(path for path in folder.rglob("*.json"))[::-1]
    benchmark = open_benchmark(name, files, folder)
    output = tmp_path / "cases.jsonl"
    assert write_cases(benchmark, output) == len(benchmark) == (8 if name == "cckeb" else 4)
    assert list(load_cases(output)) == list(benchmark)


def test_cckeb_is_asked_without_endings(tmp_path: Path) -> None:
    visual, textual = opened(tmp_path, "cckeb", [cckeb_record(1)])
    own = "Which tool lies on bench 1?"
    assert (visual.edit.prompt, visual.edit.target, visual.entity) == (own, "plane 1", "bench1")
    assert [row[:4] for row in asked(visual, tmp_path / "root")] == [
        ("text_generality", "", "Name the tool that lies on bench 1.", "plane 1"),
        ("modal_generality", "", own, "plane 1"),
        ("text_locality", "", "nq question: who built boat 1", "builder 1"),
        ("modal_locality", "", "What colour is the sail?", "red"),
    ]
    assert (textual.edit.prompt, textual.edit.target) == ("Who makes plane 1?", "Bo Bell 1")
    assert (textual.edit.image_bytes, textual.earlier, textual.entity) == (
        None,
        (visual.edit,),
        "bench1",
    )
    both = "Who makes the tool on bench 1?"
    assert asked(textual, tmp_path / "root") == [
        ("text_generality", "", "Name the maker of plane 1.", "Bo Bell 1", ""),
        ("text_locality", "", "who built mill 1", "miller 1", ""),
        ("portability", "compositional", both, "Bo Bell 1", "bench1/front.png"),
    ]
    assert [case.tags["content"] for case in (visual, textual)] == ["visual", "textual"]


def test_a_compositional_question_needs_a_textual_edit(tmp_path: Path) -> None:
    ports = [*cckeb_record(2)["port_new"], hop(2, "Who pays Bo?", "Cy")]
    contents = [cckeb_record(2) | {"port_new": ports}, cckeb_record(3)]
    benchmark = opened(tmp_path, "cckeb", [without(item, "textual_edit") for item in contents])
    assert benchmark.notes() == [
        "compositional questions left out because there is no textual_edit: 2"
    ]
    first, _ = benchmark
    hops = [item for item in first.probes if item.kind is ProbeKind.PORTABILITY]
    assert [(item.variant, item.prompt) for item in hops] == [("2 hops", "Who pays Bo?")]


def test_a_record_without_a_visual_edit_teaches_nothing(tmp_path: Path) -> None:
    benchmark = opened(tmp_path, "cckeb", [cckeb_record(1, alt=""), cckeb_record(2)])
    assert [case.edit.target for case in benchmark] == ["plane 2", "Bo Bell 2"]
    assert benchmark.notes() == ["records left out because `alt` is empty: 1"]


def test_a_repeated_visual_edit_leaves_another_textual_one(tmp_path: Path) -> None:
    other = cckeb_record(1)
    other["textual_edit"] = cckeb_record(2)["textual_edit"]
    benchmark = opened(tmp_path, "cckeb", [other], has_derived=True)
    assert len(benchmark) == 2
    benchmark = opened(tmp_path, "cckeb", [cckeb_record(1), other], has_derived=True)
    first, _, last = benchmark
    assert (last.edit.target, last.earlier) == ("Bo Bell 2", (first.edit,))


def test_a_textual_edit_without_a_composition_stands_alone(tmp_path: Path) -> None:
    contents = [cckeb_record(1, port_new=[]), cckeb_record(2)]
    contents[1]["textual_edit"]["alt"] = ""
    benchmark = opened(tmp_path, "cckeb", contents, has_derived=True)
    assert [bool(case.edit.image_bytes) for case in benchmark] == [True, False, True]
    assert [case.earlier for case in benchmark] == [(), (), ()]
    assert [len(case.probes) for case in benchmark] == [7, 2, 7]
    assert benchmark.notes()[0] == "records left out because `alt` is empty: 1"


@pytest.mark.parametrize("task", ["entity_level", "user_specific"])
def test_mmke_asks_about_the_description(tmp_path: Path, task: str) -> None:
    (case,) = opened(tmp_path, "mmke", [mmke_record(1, task)])
    assert (case.edit.prompt, case.edit.target, case.tags["domain"]) == (
        "Which tool lies on bench 1?",
        "It is plane 1.",
        task,
    )
    own, other = "bench1/front.png", "bench1/side.png"
    hop_image = own if task == "entity_level" else "hops/hop1.png"
    assert asked(case, tmp_path / "root")[4:] == [
        ("portability", "T-Rel", "Where is plane 1 from_1?", "Rome_1", ""),
        ("portability", "T-Rel", "Where is plane 1 from_2?", "Rome_2", ""),
        ("portability", "I-Rel", "Whose is this_1?", "Ann_1", own),
        ("portability", "I-Rel", "Whose is this_2?", "Ann_2", own),
        ("portability", "I-Gen", "Whose is this_1?", "Ann_1", other),
        ("portability", "I-Gen", "Whose is this_2?", "Ann_2", other),
        ("portability", "1 hop", "Who lives where plane 1 is from?", "Romans", hop_image),
    ]


def test_mmke_has_a_prompt_of_its_own_for_the_other_image_of_a_visual_meaning(
    tmp_path: Path,
) -> None:
    (case,) = opened(tmp_path, "mmke", [mmke_record(1, "visual_knowledge")])
    assert asked(case, tmp_path / "root")[4:7] == [
        ("portability", "T-Rel", "Where is plane 1 from?", "Rome", ""),
        ("portability", "I-Rel", "Whose is this?", "Ann", "bench1/front.png"),
        ("portability", "I-Gen", "Whose is the other one 1?", "Ann", "bench1/side.png"),
    ]


def test_mmke_spells_its_answers_in_two_ways(tmp_path: Path) -> None:
    content = mmke_record(1)
    other = {
        {"rel_ans_1": "rel_1_ans", "m_rel_ans_2": "m_rel_2_ans"}.get(key, key): value
        for key, value in content.items()
    }
    assert other.keys() != content.keys()
    first, second = (opened(tmp_path, "mmke", [item]) for item in (content, other))
    assert list(first) == list(second)


def test_a_description_may_be_long_and_a_question_may_lack(tmp_path: Path) -> None:
    content = without(mmke_record(1, alt="x" * 900), "rel_ans_2")
    benchmark = opened(tmp_path, "mmke", [content])
    (case,) = benchmark
    assert len(case.edit.target) == 900
    assert [item.prompt for item in case.probes if item.variant == "T-Rel"] == [
        "Where is plane 1 from_1?"
    ]
    assert benchmark.notes() == [
        "portability T-Rel left out because rel_2 or rel_ans_2 is missing, empty or no text: 1"
    ]


@pytest.mark.parametrize(
    ("source", "form"),
    [
        ("GQA", "Question: {} Short answer:"),
        ("TallyQA", "Question: {} Answer with a number. Short answer:"),
        (
            "VSR",
            "Question: Is this description true or false? Description: {} Short answer:",
        ),
        ("TextVQA", "Question: {} Short answer:"),
        ("MathVista", "{} Short answer:"),
    ],
)
def test_comprehendedit_asks_each_source_in_its_form(
    tmp_path: Path, source: str, form: str
) -> None:
    (case,) = opened(tmp_path, "comprehendedit", [comprehend_record(1, source)])
    prompt = form.format("Which tool lies on bench 1?")
    assert (case.edit.prompt, case.edit.target) == (prompt, "plane 1")
    own, boat = f"{source}/images/1.png", "val2014/boat0.png"
    rephrased = form.format("Name the tool that lies on bench 1.")
    assert asked(case, tmp_path / "root") == [
        ("text_generality", "", rephrased, "plane 1", own),
        ("text_locality", "", "who built boat 1", "builder 1", ""),
        ("modal_locality", "", "Question: What colour is the sail? Short answer:", "red", boat),
    ]
    assert case.tags == {"protocol": "chat", "domain": source, "content": "object recognition"}


def test_neighbours_are_asked_by_their_number(tmp_path: Path) -> None:
    contents = [comprehend_record(number, pid=90 - number) for number in range(7)]
    contents[0] |= neighbours(0, 0) | {
        "img_topk": [90, 89, 88, 87, 86, 85],
        "txt_last_topk": [90, 89, 88, 87, 86, 85],
        "ori_rt_txt_topk": [1, 0],
    }
    right = [without(comprehend_record(50 + number, "VSR"), "pid") for number in range(2)]
    contents[3]["answer"] = ""
    benchmark = opened(tmp_path, "comprehendedit", contents, right)
    first = next(iter(benchmark))
    found = [
        (item.kind.value, item.variant, item.target)
        for item in first.probes
        if item.kind.value.startswith("neighbour")
    ]
    near, far = "nearest image", "farthest text"
    assert found == [
        *(("neighbour_generality", near, f"plane {number}") for number in (0, 1, 2)),
        *(("neighbour_generality", far, f"plane {number}") for number in (2, 4, 5)),
        *(("neighbour_locality", "nearest text", f"plane {number}") for number in (51, 50)),
    ]
    locality = first.probes[-1]
    assert "Is this description true or false?" in locality.prompt
    assert locality.image_bytes == (tmp_path / "root/VSR/images/50.png").read_bytes()
    assert benchmark.notes() == ["records left out because `answer` is empty: 1"]


def test_each_list_gives_its_variant(tmp_path: Path) -> None:
    folder = benchmark_folder(tmp_path, "comprehendedit", 6)
    files = [folder / f"ComprehendEdit_{name}.json" for name in ("test", "ori_right")]
    for case in open_benchmark("comprehendedit", files, folder):
        counts = Counter((item.kind.value, item.variant) for item in case.probes if item.variant)
        assert counts == {
            (kind, f"{place} {likeness}"): number
            for kind, number in (("neighbour_generality", 4), ("neighbour_locality", 3))
            for place in ("nearest", "farthest")
            for likeness in ("image", "text")
        }


def test_without_its_second_file_the_locality_of_neighbours_is_not_asked(tmp_path: Path) -> None:
    contents = [comprehend_record(number) | neighbours(2, 9) for number in range(2)]
    benchmark = opened(tmp_path, "comprehendedit", contents)
    kinds = {item.kind for case in benchmark for item in case.probes}
    assert ProbeKind.NEIGHBOUR_GENERALITY in kinds
    assert ProbeKind.NEIGHBOUR_LOCALITY not in kinds
    assert benchmark.notes() == [
        "neighbour_locality left out because ComprehendEdit_ori_right.json is not there: 2"
    ]


def test_a_missing_image_of_a_neighbour_costs_the_record(tmp_path: Path) -> None:
    contents = [comprehend_record(0, img_topk=[1]), comprehend_record(1), comprehend_record(2)]
    opened(tmp_path, "comprehendedit", contents)
    (tmp_path / "root/GQA/images/1.png").unlink()
    benchmark = open_benchmark(
        "comprehendedit",
        [tmp_path / "file.json"],
        tmp_path / "root",
        missing_images="skipped",
    )
    assert [case.edit.target for case in benchmark] == ["plane 2"]
    assert len(benchmark.refused) == 2


@pytest.mark.parametrize(
    ("name", "contents", "right", "faults"),
    [
        (
            "mmke",
            [
                mmke_record(1, "entity"),
                mmke_record(2, "visual_knowledge", one_hop_img="../x.png", src=""),
                without(mmke_record(3), "rephrase"),
                mmke_record(4, m_rel_1="y" * 3_000, rel_ans_2="z" * 5_000),
                without(mmke_record(5), "knowledge_type"),
            ],
            None,
            [
                "record 1: knowledge_type must be one of entity_level, user_specific, visual_know",
                "record 2: one_hop_img '../x.png' leads out of the image root",
                "record 2: src is empty",
                "record 3: key 'rephrase' is missing",
                "record 4: m_rel_1 has 3,000 characters",
                "record 4: rel_ans_2 has 5,000 characters",
                "record 5: knowledge_type must be one of",
            ],
        ),
        (
            "comprehendedit",
            [
                comprehend_record(0, img_topk=3, txt_topk=[1, "2"], Category="\x00"),
                comprehend_record(1, source="COCO"),
                comprehend_record(2, pid="2"),
                comprehend_record(3, pid=0),
                comprehend_record(4, img_topk=[77], ori_rt_img_topk=[-1, 0]),
                "no object",
            ],
            [comprehend_record(7, pid=0, answer="  "), comprehend_record(8) | {"source": 7}],
            [
                "file.json, record 1: img_topk must be a list of whole numbers",
                "file.json, record 1: txt_topk must be a list of whole numbers",
                "file.json, record 1: Category holds the control character",
                "file.json, record 2: source must be one of gqa, tallyqa, vsr, textvqa, mathvista",
                "file.json, record 3: pid must be a whole number",
                "file.json, record 4: pid 0 is that of an earlier record",
                "file.json, record 5: img_topk names sample 77: there is none",
                "file.json, record 5: ori_rt_img_topk names sample -1: there is none",
                "file.json, record 6: must be an object, got a text",
                "ComprehendEdit_ori_right.json, record 1: answer is empty",
                "ComprehendEdit_ori_right.json, record 2: source must be one of",
            ],
        ),
        (
            "cckeb",
            [
                cckeb_record(1, port_new=[{"port_type": "composed"}]),
                cckeb_record(2, alt=[1]),
                cckeb_record(3, textual_edit=["Who?"]),
                cckeb_record(4, textual_edit={"src": "", "alt": ["Bo", 1], "loc": "x"}),
            ],
            None,
            [
                "record 1: port_new[0].port_type must be one of 1-hop, 2-hop, 3-hop, 4-hop, comp",
                "record 2: alt must be a text, got a list",
                "record 3: textual_edit must be an object, got a list",
                "record 4: textual_edit.src is empty",
                "record 4: textual_edit.alt must be a text, got a list",
                "record 4: key 'textual_edit.rephrase' is missing",
            ],
        ),
    ],
)
def test_all_faults_are_in_one_message(
    tmp_path: Path,
    name: str,
    contents: list[Any],
    right: list[Any] | None,
    faults: list[str],
) -> None:
    files = [write_json(tmp_path / "file.json", contents)]
    if right is not None:
        files.append(write_json(tmp_path / "ComprehendEdit_ori_right.json", right))
    (tmp_path / "root").mkdir()
    with pytest.raises(InputError) as info:
        open_benchmark(name, files, tmp_path / "root")
    assert f"problems: {len(faults)}\n" in f"{info.value.message}\n"
    for fault in faults:
        assert fault in info.value.message


def test_converted_descriptions_need_the_limit_of_the_job(tmp_path: Path) -> None:
    benchmark = opened(tmp_path / "data", "mmke", [mmke_record(1, alt="x" * 900)])
    write_cases(benchmark, tmp_path / "cases.jsonl")
    (refused,) = load_cases(tmp_path / "cases.jsonl")
    assert isinstance(refused, Rejected)
    assert "at most 500" in refused.message
    limits = InputLimits(max_target_chars=1_000)
    assert list(load_cases(tmp_path / "cases.jsonl", limits=limits)) == list(benchmark)
