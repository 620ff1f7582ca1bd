"""Published file names, folders and prompt endings of the benchmarks.

E-VQA and E-IC come from EasyEdit (arXiv 2310.08475), VLKEB from arXiv 2403.07350; the endings are
those of LiveEdit's own loader (METHOD.md 7).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from liveedit_core.errors import ConfigError, InputError

Split = Literal["train", "evaluation"]

ANSWER_CUE = " The answer is:"
"""Ends E-VQA's own prompts, and the modal locality question of all three."""
TEXT_LOCALITY_ENDING = "?"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What distinguishes one benchmark."""

    name: str
    title: str
    prompt_ending: str
    """Of the edit's prompt, its rephrasing, and the prompt of the other image."""
    files: Mapping[Split, str]
    portability_files: tuple[str, ...] = ()
    """Files that add questions to the evaluation split; the first one that exists is read."""
    file_folders: tuple[str, ...]
    """Subfolders of `data` to search for the files in this order, "" for `data` itself."""
    image_folders: tuple[str, ...]
    """Subfolders of `data` to search for images in this order; otherwise `data` itself."""
    has_entity_folders: bool = False
    """Whether the folder of an image names its entity; otherwise each image is an entity."""


LAYOUTS: Mapping[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout(
            name="evqa",
            title="E-VQA",
            prompt_ending=ANSWER_CUE,
            files={"train": "vqa_train.json", "evaluation": "vqa_eval.json"},
            file_folders=("", "vqa"),
            image_folders=("images",),
        ),
        Layout(
            name="eic",
            title="E-IC",
            prompt_ending="",
            files={"train": "caption_train_edit.json", "evaluation": "caption_eval_edit.json"},
            file_folders=("", "caption"),
            image_folders=("images",),
        ),
        Layout(
            name="vlkeb",
            title="VLKEB",
            prompt_ending="",
            files={"train": "train.json", "evaluation": "eval.json"},
            portability_files=("eval_multihop.json", "eval_edit_onehop.json"),
            file_folders=("",),
            image_folders=("mmkb_images", "VLKEB_images"),
            has_entity_folders=True,
        ),
    )
}


def layout_of(name: str) -> Layout:
    """The layout of a benchmark by its short name."""
    if name not in LAYOUTS:
        raise ConfigError(f"benchmark {name!r} is not known; known: {', '.join(LAYOUTS)}")
    return LAYOUTS[name]


def find_files(layout: Layout, data: Path, split: Split) -> tuple[Path, ...]:
    """The JSON files of a split: the one with the edits, then one with portability questions."""
    portability = layout.portability_files if split == "evaluation" else ()
    for folder in layout.file_folders:
        main = data / folder / layout.files[split]
        added = [data / folder / name for name in portability if (data / folder / name).is_file()]
        found = [*([main] if main.is_file() else []), *added[:1]]
        if found:
            return tuple(found)
    looked_for = ", ".join(
        str(Path(folder) / name)
        for folder in layout.file_folders
        for name in (layout.files[split], *portability)
    )
    raise InputError(f"{layout.title}: {str(data)!r} holds none of {looked_for}")


def find_images(layout: Layout, data: Path) -> Path:
    """The default image root."""
    folders = [data / name for name in layout.image_folders if (data / name).is_dir()]
    return folders[0] if folders else data
