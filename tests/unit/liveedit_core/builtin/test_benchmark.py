"""EmblemEdit keeps its promises: disjoint splits, whole cases, decodable and licensed images."""

import io
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from liveedit_core.builtin.backbone import JOINT, backbone_digest
from liveedit_core.builtin.benchmark import BENCHMARK_FILE, load_builtin_cases, load_entities
from liveedit_core.errors import ConfigError
from liveedit_core.parts import default_cache_dir
from liveedit_core.schema import Case, ProbeKind

ALWAYS_PROBED = frozenset(ProbeKind) - {
    ProbeKind.PORTABILITY,
    ProbeKind.CORRECTION,
    ProbeKind.NEIGHBOUR_LOCALITY,
    ProbeKind.NEIGHBOUR_GENERALITY,
}
MAX_TARGET_TOKENS = 8


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    table: list[dict[str, Any]] = pq.read_table(BENCHMARK_FILE).to_pylist()
    return table


@pytest.fixture(scope="module")
def train() -> list[Case]:
    return load_builtin_cases("train")


@pytest.fixture(scope="module")
def evaluation() -> list[Case]:
    return load_builtin_cases("development")


def images_of(case: Case) -> set[bytes]:
    shown = {probe.image_bytes for probe in case.all_probes()}
    return {image for image in shown if image is not None}


def test_the_file_is_small_enough_to_commit() -> None:
    assert BENCHMARK_FILE.stat().st_size < 30_000_000


def test_there_are_enough_cases(train: list[Case], evaluation: list[Case]) -> None:
    assert len(train) >= 3000
    assert len(evaluation) >= 1000
    for cases in (train, evaluation):
        assert len({case.case_id for case in cases}) == len(cases)


def test_splits_share_no_entity(rows: list[dict[str, Any]]) -> None:
    for key in ("thing_id", "name"):
        assert Counter(row[key].lower() for row in rows).most_common(1)[0][1] == 1


def test_splits_share_no_image(rows: list[dict[str, Any]]) -> None:
    split_of: dict[bytes, str] = {}
    for row in rows:
        for shown in row["pictures"]:
            assert split_of.setdefault(shown["image"], row["split"]) == row["split"], row["name"]


def test_training_and_evaluation_cases_show_no_common_image(
    train: list[Case], evaluation: list[Case]
) -> None:
    trained = set().union(*(images_of(case) for case in train))
    examined = set().union(*(images_of(case) for case in evaluation))
    assert not trained & examined


def test_evaluation_edits_are_about_nothing_the_backbone_was_taught(evaluation: list[Case]) -> None:
    taught = {
        image
        for entity in load_entities("known_train", "known_evaluation")
        for image in entity.images.values()
    }
    assert not taught & {case.edit.image_bytes for case in evaluation}


@pytest.mark.parametrize("split", ["train", "development"])
def test_every_case_has_every_kind_of_probe(split: str) -> None:
    for case in load_builtin_cases(split):
        kinds = Counter(probe.kind for probe in case.all_probes())
        assert kinds.keys() >= ALWAYS_PROBED
        assert max(kinds.values()) == 1


def test_probes_ask_what_their_kind_says(evaluation: list[Case]) -> None:
    num_portability = 0
    for case in evaluation:
        edit = case.edit
        probes = {probe.kind: probe for probe in case.probes}
        rephrased = probes[ProbeKind.TEXT_GENERALITY]
        assert rephrased.prompt != edit.prompt
        assert (rephrased.image_bytes, rephrased.target) == (edit.image_bytes, edit.target)
        redrawn = probes[ProbeKind.MODAL_GENERALITY]
        assert redrawn.image_bytes not in (None, edit.image_bytes)
        assert (redrawn.prompt, redrawn.target) == (edit.prompt, edit.target)
        assert probes[ProbeKind.TEXT_LOCALITY].image_bytes is None
        assert probes[ProbeKind.MODAL_LOCALITY].image_bytes not in (None, edit.image_bytes)
        swapped = probes[ProbeKind.IMAGE_SWAP_LOCALITY]
        assert swapped.prompt == edit.prompt
        assert swapped.image_bytes not in (None, edit.image_bytes, redrawn.image_bytes)
        other = probes[ProbeKind.PROMPT_SWAP_LOCALITY]
        assert other.image_bytes == edit.image_bytes
        assert other.prompt not in (edit.prompt, rephrased.prompt)
        num_portability += ProbeKind.PORTABILITY in probes
    assert num_portability >= 50


def test_evaluation_rephrases_with_words_that_training_never_saw(
    train: list[Case], evaluation: list[Case]
) -> None:
    trained = {probe.prompt for case in train for probe in case.all_probes()}
    assert {case.edit.prompt for case in evaluation} <= trained
    rephrased = {
        probe.prompt
        for case in evaluation
        for probe in case.probes
        if probe.kind is ProbeKind.TEXT_GENERALITY
    }
    assert rephrased - trained


def token_counter() -> Callable[[str], int]:
    """The backbone's tokenizer where its checkpoint is at hand, else words."""
    if JOINT.exists():
        folder = default_cache_dir() / f"backbone-{backbone_digest()[:16]}"
        if folder.exists():
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            return lambda text: len(tokenizer.encode(f" {text}", add_special_tokens=False))
    return lambda text: len(re.findall(r"\S+", text))


def test_targets_have_one_to_eight_tokens(train: list[Case], evaluation: list[Case]) -> None:
    count = token_counter()
    targets = {case.edit.target for case in (*train, *evaluation)}
    wrong = {t: count(t) for t in targets if not 1 <= count(t) <= MAX_TARGET_TOKENS}
    assert wrong == {}
    assert len(targets) > 1000


def test_every_image_decodes_and_names_its_licence(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        assert len({shown["origin"] for shown in row["pictures"]}) == len(row["pictures"]) >= 2
        for shown in row["pictures"]:
            assert shown["licence"]
            assert shown["credit"]
            assert re.fullmatch(r"@?[\w./-]+@[\d.]+", shown["package"])
            with Image.open(io.BytesIO(shown["image"])) as image:
                image.load()
                assert 64 <= min(image.size) <= max(image.size) <= 160


def test_one_entity_has_drawings_that_differ(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        images = [shown["image"] for shown in row["pictures"]]
        assert len(set(images)) == len(images), row["name"]


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ConfigError, match="'evaluation' is now called 'development'"):
        load_builtin_cases("evaluation")
