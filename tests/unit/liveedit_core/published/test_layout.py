"""Files and images are found under their published names."""

from pathlib import Path

import pytest

from liveedit_core.errors import InputError
from liveedit_core.published.layout import LAYOUTS, Split, find_files, find_images


@pytest.mark.parametrize(
    ("name", "split", "expected"),
    [
        ("evqa", "train", "vqa_train.json"),
        ("evqa", "evaluation", "vqa_eval.json"),
        ("eic", "train", "caption_train_edit.json"),
        ("eic", "evaluation", "caption_eval_edit.json"),
        ("vlkeb", "train", "train.json"),
        ("vlkeb", "evaluation", "eval.json"),
        ("cckeb", "train", "CCKEB_train.json"),
        ("cckeb", "evaluation", "CCKEB_eval.json"),
        ("comprehendedit", "train", "ComprehendEdit_train.json"),
        ("comprehendedit", "evaluation", "ComprehendEdit_test.json"),
    ],
)
def test_each_split_has_its_file(tmp_path: Path, name: str, split: Split, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        find_files(LAYOUTS[name], tmp_path, split)
    (tmp_path / expected).touch()
    assert find_files(LAYOUTS[name], tmp_path, split) == (tmp_path / expected,)


@pytest.mark.parametrize(
    ("name", "file"), [("evqa", "vqa/vqa_eval.json"), ("eic", "caption/caption_eval_edit.json")]
)
def test_the_folder_of_the_authors_is_taken_whole(tmp_path: Path, name: str, file: str) -> None:
    (tmp_path / file).parent.mkdir()
    (tmp_path / file).touch()
    assert find_files(LAYOUTS[name], tmp_path, "evaluation") == (tmp_path / file,)


def test_portability_joins_the_evaluation_of_vlkeb_alone(tmp_path: Path) -> None:
    vlkeb = LAYOUTS["vlkeb"]
    for name in ("train.json", "eval_edit_onehop.json"):
        (tmp_path / name).touch()
    assert find_files(vlkeb, tmp_path, "evaluation") == (tmp_path / "eval_edit_onehop.json",)
    for name in ("eval.json", "eval_multihop.json"):
        (tmp_path / name).touch()
    found = find_files(vlkeb, tmp_path, "evaluation")
    assert [path.name for path in found] == ["eval.json", "eval_multihop.json"]
    assert [path.name for path in find_files(vlkeb, tmp_path, "train")] == ["train.json"]


@pytest.mark.parametrize("split", ["train", "evaluation"])
def test_mmke_has_a_file_for_each_task_in_either_layout(tmp_path: Path, split: Split) -> None:
    ending = {"train": "train", "evaluation": "eval"}[split]
    names = [f"entity/{ending}.json", f"visual_{ending}.json", f"user/{ending}.json"]
    for number, name in enumerate(names, start=1):
        path = tmp_path / "data_json" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        found = find_files(LAYOUTS["mmke"], tmp_path, split)
        assert found == tuple(tmp_path / "data_json" / there for there in names[:number])


def test_samples_that_were_right_join_the_evaluation_of_comprehendedit(tmp_path: Path) -> None:
    folder = tmp_path / "ComprehendEdit"
    folder.mkdir()
    for name in ("train", "test", "ori_right"):
        (folder / f"ComprehendEdit_{name}.json").touch()
    layout = LAYOUTS["comprehendedit"]
    assert [path.name for path in find_files(layout, tmp_path, "evaluation")] == [
        "ComprehendEdit_test.json",
        "ComprehendEdit_ori_right.json",
    ]
    assert len(find_files(layout, tmp_path, "train")) == 1


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("evqa", "images"),
        ("eic", "images"),
        ("vlkeb", "mmkb_images"),
        ("vlkeb", "VLKEB_images"),
        ("cckeb", "CCKEB_images/mmkb_images"),
        ("mmke", "data_image"),
        ("comprehendedit", "ComprehendEdit"),
    ],
)
def test_images_start_from_their_published_folder_or_the_data(
    tmp_path: Path, name: str, folder: str
) -> None:
    assert find_images(LAYOUTS[name], tmp_path) == tmp_path
    (tmp_path / folder).mkdir(parents=True)
    assert find_images(LAYOUTS[name], tmp_path) == tmp_path / folder
