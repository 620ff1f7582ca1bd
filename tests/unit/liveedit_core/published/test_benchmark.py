"""Published records become cases with exactly the published prompts, or one error lists faults."""

import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from liveedit_core.backbones.prompts import with_space
from liveedit_core.errors import ConfigError, InputError
from liveedit_core.inputs.limits import InputLimits
from liveedit_core.inputs.rejects import RejectType
from liveedit_core.published.benchmark import PublishedBenchmark, open_benchmark
from liveedit_core.schema import Case, ProbeKind
from tests.published_files import draw_images, hop, record, without, write_json
from tests.unit.tiny_inputs import image


def opened(
    folder: Path, *contents: dict[str, Any], name: str = "evqa", **options: Any
) -> PublishedBenchmark:
    """A benchmark of some records whose images all exist."""
    draw_images(folder / "root", [record(number) for number in range(9)])
    file = write_json(folder / "file.json", contents)
    return open_benchmark(name, [file], folder / "root", **options)


def refusal(folder: Path, *contents: Any, **options: Any) -> str:
    """The message that lists all faults."""
    with pytest.raises(InputError) as info:
        opened(folder, *contents, **options)
    return info.value.message


def asked(case: Case) -> list[tuple[str, str, str]]:
    return [(probe.kind.value, probe.prompt, probe.target) for probe in case.probes]


def test_prompts_of_evqa_are_the_published_ones(tmp_path: Path) -> None:
    (case,) = opened(tmp_path, record(1))
    assert (case.edit.prompt, case.edit.target) == (
        "Which tool lies on bench 1? The answer is:",
        "plane 1",
    )
    assert asked(case) == [
        ("text_generality", "Name the tool that lies on bench 1. The answer is:", "plane 1"),
        ("modal_generality", "Which tool lies on bench 1? The answer is:", "plane 1"),
        ("text_locality", "nq question: who built boat 1?", "builder 1"),
        ("modal_locality", "What colour is the sail? The answer is:", "red"),
    ]


@pytest.mark.parametrize("name", ["eic", "vlkeb"])
def test_prompts_of_eic_and_vlkeb_are_used_as_they_are(tmp_path: Path, name: str) -> None:
    (case,) = opened(tmp_path, record(1, alt="A plane.\n"), name=name)
    assert (case.edit.prompt, case.edit.target) == ("Which tool lies on bench 1?", "A plane.\n")
    assert asked(case) == [
        ("text_generality", "Name the tool that lies on bench 1.", "A plane.\n"),
        ("modal_generality", "Which tool lies on bench 1?", "A plane.\n"),
        ("text_locality", "nq question: who built boat 1?", "builder 1"),
        ("modal_locality", "What colour is the sail? The answer is:", "red"),
    ]


def test_a_target_gets_one_space_from_the_backbone_and_none_here(tmp_path: Path) -> None:
    plain, spaced = opened(tmp_path, record(1), record(2, alt=" plane 2"))
    for case, expected in ((plain, " plane 1"), (spaced, " plane 2")):
        assert with_space(case.edit.prompt, case.edit.target) == expected
        assert with_space(case.probes[0].prompt, case.probes[0].target) == expected


def test_each_question_is_about_its_image(tmp_path: Path) -> None:
    (case,) = opened(tmp_path, record(1))
    root = tmp_path / "root"
    paths = ["bench1/front.png", "bench1/side.png", None, "boats/boat0.png"]
    expected = [None if path is None else (root / path).read_bytes() for path in paths]
    assert [probe.image_bytes for probe in case.probes] == expected
    assert case.edit.image_bytes == expected[0]
    assert case.edit.image_uri == (root / "bench1/front.png").resolve().as_uri()
    assert case.case_id == case.edit.edit_id


def test_a_entity_is_the_entity_of_vlkeb_and_otherwise_the_image(tmp_path: Path) -> None:
    assert [case.entity for case in opened(tmp_path, record(1), name="vlkeb")] == ["bench1"]
    assert [case.entity for case in opened(tmp_path, record(1))] == ["bench1/front.png"]


def test_portability_comes_with_its_hops_from_either_layout(tmp_path: Path) -> None:
    many = [hop(4, "Who runs its maker?", "Ann"), hop(1, "Where was it made?", "Rome")]
    one = [{"port_edit_q": "q", "port_edit_a": "a", "port_q": "Where?", "port_a": "Rome"}]
    first, second = opened(
        tmp_path, record(1, port_new=many), record(2, port_new=one), name="vlkeb"
    )
    found = [(probe.variant, probe.prompt, probe.target) for probe in first.probes[4:]]
    assert found == [
        ("4 hops", "Who runs its maker?", "Ann"),
        ("1 hop", "Where was it made?", "Rome"),
    ]
    assert [(probe.variant, probe.prompt) for probe in second.probes[4:]] == [("1 hop", "Where?")]
    assert {probe.image_bytes for probe in first.probes[4:]} == {first.edit.image_bytes}
    assert {probe.kind for probe in first.probes[4:]} == {ProbeKind.PORTABILITY}


def test_a_second_file_adds_questions_to_the_edits_of_the_first(tmp_path: Path) -> None:
    contents = [record(number) for number in range(3)]
    root = draw_images(tmp_path / "root", contents)
    files = [
        write_json(tmp_path / "eval.json", contents[:2]),
        write_json(
            tmp_path / "eval_multihop.json",
            [contents[1] | {"port_new": [hop(2, "Whose is it?", "Bo")]}, contents[2]],
        ),
    ]
    cases = list(open_benchmark("vlkeb", files, root))
    assert [case.edit.target for case in cases] == ["plane 0", "plane 1", "plane 2"]
    assert [len(case.probes) for case in cases] == [4, 5, 4]
    assert cases[1].probes[4].variant == "2 hops"


def test_all_problems_are_in_one_message(tmp_path: Path) -> None:
    message = refusal(
        tmp_path,
        without(record(0), "alt"),
        record(1, src=[7], rephrase="  "),
        "no object",
        record(2, image="../outside.png"),
        record(3, image_rephrase="/outside.png"),
        record(4, m_loc="gone.png"),
        record(5, alt="x" * 501),
    )
    assert message.splitlines()[0].endswith("nothing was started")
    for line in (
        "problems: 7\n",
        "file.json, record 1: key 'alt' is missing",
        "file.json, record 2: src must be a text, got a list",
        "file.json, record 2: rephrase is empty",
        "file.json, record 3: must be an object, got a text",
        "file.json, record 4: image '../outside.png' leads out of the image root",
        "file.json, record 5: image_rephrase '/outside.png' leads out of the image root",
        "file.json, record 7: alt has 501 characters",
        "images that are missing or cannot be read: 1 ",
        "file.json, record 6: image 'gone.png': does not exist in the image root",
    ):
        assert line in message


def test_long_lists_are_cut_and_counted(tmp_path: Path) -> None:
    bad = [record(1, image=f"gone{number}.png", src="") for number in range(30)]
    message = refusal(tmp_path, *bad)
    assert "problems: 30\n" in message
    assert message.count("src is empty") == 20
    assert "and 10 more" in message


def test_missing_and_damaged_images_stop_everything_or_cost_their_records(tmp_path: Path) -> None:
    damaged = tmp_path / "root" / "cut.png"
    damaged.parent.mkdir()
    damaged.write_bytes(image(1)[:60])
    contents = [
        record(1),
        record(2, m_loc="gone.png"),
        record(3, image_rephrase="gone.png"),
        record(4, image="cut.png"),
    ]
    message = refusal(tmp_path, *contents)
    assert "images that are missing or cannot be read: 2 " in message
    assert "record 2: image 'gone.png'" in message
    assert "record 4: image 'cut.png': the image is damaged" in message
    benchmark = opened(tmp_path, *contents, missing_images="skipped")
    assert [case.edit.target for case in benchmark] == ["plane 1"]
    assert [(item.line_number, item.error_type) for item in benchmark.refused] == [
        (2, RejectType.IMAGE_NOT_FOUND),
        (3, RejectType.IMAGE_NOT_FOUND),
        (4, RejectType.IMAGE_UNREADABLE),
    ]
    assert benchmark.notes() == [
        "records left out because images are missing or cannot be read: 3 (images: 2)"
    ]


def test_what_teaches_nothing_new_is_left_out_on_record(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "copy.png").symlink_to("bench1/front.png")
    benchmark = opened(tmp_path, record(1), record(1, image="copy.png"), record(2, alt=""))
    assert [case.edit.target for case in benchmark] == ["plane 1"]
    reasons = [(item.line_number, item.error_type) for item in benchmark.refused]
    assert reasons == [(2, RejectType.DUPLICATE), (3, RejectType.EMPTY_TEXT)]
    assert len(benchmark.notes()) == 2


def test_nothing_to_teach_is_an_error(tmp_path: Path) -> None:
    assert "no record is left to teach" in refusal(tmp_path, record(1, alt=""))
    gone = record(1, image="gone.png")
    assert "no record is left" in refusal(tmp_path, gone, missing_images="skipped")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "is not valid JSON"),
        (b"\xff[]", "is not valid JSON in UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"src": 1}', "must be a list of records [...], got an object"),
        (b"[]", "holds no record"),
        (b'[{"src": "a", "src": "b"}]', "key 'src' is given more than once"),
        (b" " * 2_000, "has more than 1,000 bytes"),
    ],
)
def test_a_file_that_is_no_list_of_records(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "file.json"
    file.write_bytes(content)
    limits = InputLimits(max_benchmark_bytes=200_000 if len(content) > 9_999 else 1_000)
    with pytest.raises(InputError) as info:
        open_benchmark("evqa", [file], tmp_path, limits=limits)
    assert reason in info.value.message


@pytest.mark.parametrize(
    ("questions", "reason"),
    [
        (3, "port_new must be a list, got a number"),
        ([3], "port_new[0] must be an object, got a number"),
        ([{"port_type": "5-hop"}], "port_new[0].port_type must be one of 1-hop, 2-hop,"),
        ([{"port_type": "2-hop"}], "key 'port_new[0].Q&A.Question' is missing"),
        ([{"port_q": "Where?"}], "key 'port_new[0].port_a' is missing"),
        ([hop(1, "", "Rome")], "port_new[0].Q&A.Question is empty"),
        ([hop(1, "Where?", "Rome")] * 300, "port_new has 300 questions"),
    ],
)
def test_a_portability_question_that_is_none(tmp_path: Path, questions: Any, reason: str) -> None:
    assert reason in refusal(tmp_path, record(1, port_new=questions), name="vlkeb")


def test_no_file_no_folder_no_benchmark(tmp_path: Path) -> None:
    file = write_json(tmp_path / "file.json", [record(1)])
    with pytest.raises(InputError, match="is not a file"):
        open_benchmark("evqa", [tmp_path / "none.json"], tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        open_benchmark("evqa", [file], tmp_path / "none")
    with pytest.raises(ConfigError, match="known: evqa, eic, vlkeb, cckeb"):
        open_benchmark("vqa", [file], tmp_path)


def test_a_named_pipe_is_no_image_and_blocks_nothing(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    os.mkfifo(tmp_path / "root" / "pipe.png")
    assert "no regular file" in refusal(tmp_path, record(1, image="pipe.png"))


def test_a_link_inside_the_root_is_followed(tmp_path: Path) -> None:
    elsewhere = draw_images(tmp_path / "elsewhere", [record(1)])
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "linked").symlink_to(elsewhere)
    (case,) = opened(tmp_path, record(1, image="linked/bench1/front.png"))
    assert case.edit.image_bytes == (elsewhere / "bench1/front.png").read_bytes()


def test_a_shared_image_is_in_memory_once_and_no_longer_than_needed(tmp_path: Path) -> None:
    benchmark = opened(tmp_path, record(2), record(3), record(4))
    cases = list(benchmark)
    assert cases[0].probes[3].image_bytes is cases[1].probes[3].image_bytes
    assert cases[1].probes[3].image_bytes is not cases[2].probes[3].image_bytes
    stream = iter(benchmark)
    next(stream)
    (tmp_path / "root" / "boats" / "boat1.png").unlink()  # already read: two records show it
    assert next(stream) == cases[1]
    (tmp_path / "root" / "bench4" / "side.png").unlink()
    with pytest.raises(InputError, match="does not exist"):
        next(stream)


def test_the_digest_names_what_was_read(tmp_path: Path) -> None:
    first = opened(tmp_path, record(1)).digest
    assert opened(tmp_path, record(1)).digest == first
    assert opened(tmp_path, record(1), name="eic").digest != first
    assert opened(tmp_path, record(1, rephrase="Which?")).digest != first


def test_cases_travel_between_processes(tmp_path: Path) -> None:
    (case,) = opened(tmp_path, record(1, port_new=[hop(3, "Where?", "Rome")]), name="vlkeb")
    assert pickle.loads(pickle.dumps(case)) == case


@pytest.mark.parametrize(
    "changed",
    [
        {"loc": ""},
        {"loc_ans": "  "},
        {"loc_ans": None},
        {"loc_ans": ["builder 1"]},
        {"m_loc_q": ""},
        {"m_loc_a": ""},
        {"m_loc_a": True},
        {"m_loc": ""},
    ],
)
def test_a_locality_question_that_lacks_a_part_is_left_out_alone(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    whole, partial = opened(tmp_path, record(1), record(2, **changed))
    (key,) = changed
    gone = "modal_locality" if key.startswith("m_") else "text_locality"
    assert len(whole.probes) == 4
    assert [kind for kind, _, _ in asked(partial)] == [
        kind for kind, _, _ in asked(whole) if kind != gone
    ]


def test_what_is_left_out_by_part_is_counted(tmp_path: Path) -> None:
    contents = [
        without(record(0), "loc"),
        record(1, loc_ans="", m_loc_a=""),
        record(2, m_loc_q="", m_loc="never read.png"),
        record(3, alt="", m_loc_q=""),
    ]
    benchmark = opened(tmp_path, *contents)
    assert [len(case.probes) for case in benchmark] == [3, 2, 3]
    assert benchmark.notes() == [
        "records left out because `alt` is empty: 1",
        "text_locality left out because loc or loc_ans is missing, empty or no text: 2",
        "modal_locality left out because m_loc, m_loc_q or m_loc_a is missing, empty or no text: 2",
    ]


def test_numbers_count_as_texts(tmp_path: Path) -> None:
    numbers = record(1, alt=2, loc_ans=1066, m_loc_a=2.5, port_new=[hop(1, "How many?", "x")])
    numbers["port_new"][0]["Q&A"]["Answer"] = 7
    (case,) = opened(tmp_path, numbers, name="vlkeb")
    assert case.edit.target == "2"
    assert [target for _, _, target in asked(case)] == ["2", "2", "1066", "2.5", "7"]


def test_a_case_says_how_its_prompts_are_meant(tmp_path: Path) -> None:
    (chat,), (paper,) = opened(tmp_path, record(1)), opened(tmp_path, record(1), protocol="paper")
    assert (chat.tags, paper.tags) == ({"protocol": "chat"}, {"protocol": "paper"})
    assert (chat.edit, chat.probes) == (paper.edit, paper.probes)
