"""Published file names, folders, keys and prompts of the benchmarks.

E-VQA and E-IC come from EasyEdit (arXiv 2310.08475), VLKEB from arXiv 2403.07350, and are asked as
LiveEdit's own loader asks them (METHOD.md 7). CCKEB (2510.25798), MMKE-Bench (2502.19870) and
ComprehendEdit are asked as their authors' loaders ask them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from liveedit_core.errors import ConfigError, InputError
from liveedit_core.schema import ProbeKind

Split = Literal["train", "evaluation"]

TEXT = "{}"
"""Stands for the published text in the form of a prompt."""
HOPS = {"1-hop": "1 hop"} | {f"{n}-hop": f"{n} hops" for n in (2, 3, 4)}
"""`port_type` of a portability question, and its variant in tables."""
COMPOSITIONAL = "compositional"
"""Variant of the questions that need both edits of a record."""
_ANSWER_CUE = f"{TEXT} The answer is:"
_SHORT_ANSWER = f"Question: {TEXT} Short answer:"


@dataclass(frozen=True)
class Asked:
    """A question, by the keys of its record."""

    kind: ProbeKind
    prompt: str
    target: str
    image: str | None = None
    form: str = TEXT
    variant: str = ""

    @property
    def keys(self) -> tuple[str, ...]:
        own = (self.prompt, self.target)
        return own if self.image is None else (self.image, *own)

    @property
    def is_needed(self) -> bool:
        """Whether its record is useless without it; otherwise the question alone is left out."""
        return self.kind in (
            ProbeKind.RELIABILITY,
            ProbeKind.TEXT_GENERALITY,
            ProbeKind.MODAL_GENERALITY,
        )


@dataclass(frozen=True)
class NeighbourList:
    """Numbers of other samples, most similar first, about which a record's edit is asked."""

    kind: ProbeKind
    """A locality: samples of `samples_file`; otherwise of the file with the edits."""
    variant: str
    is_farthest: bool
    """Whether its last samples are asked about, not its first."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What distinguishes one benchmark."""

    name: str
    title: str
    files: Mapping[Split, tuple[tuple[str, ...], ...]]
    """Of each file its possible names; the first one that exists is read. Later files add records,
    or portability questions to the edits of the first."""
    samples_file: str = ""
    """Holds no edits, but samples that records name as neighbours."""
    file_folders: tuple[str, ...] = ("",)
    """Subfolders of `data` to search for the files in this order, "" for `data` itself."""
    image_folders: tuple[str, ...]
    """Subfolders of `data` to search for images in this order; otherwise `data` itself."""
    has_entity_folders: bool = False
    """Whether the folder of an image names its entity; otherwise each image is an entity."""
    has_long_targets: bool = False
    """Whether descriptions are taught, which may be as long as the target of a locality probe."""
    asked: Mapping[str, tuple[Asked, ...]]
    """The edit, then its probes, by the value of `form_key`."""
    form_key: str = ""
    """Key that says which questions a record has; empty: all have those of `asked[""]`."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Other spellings of keys, and the keys."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Tags of a case, and the keys of their values."""
    neighbours: Mapping[str, NeighbourList] = field(default_factory=dict)
    """Lists of neighbours, by key."""
    textual: tuple[Asked, ...] = ()
    """A second edit of a record, without an image, then its probes, where it has them; keys such as
    "textual_edit.src" stand for those of an object."""
    port_types: Mapping[str, str] = field(default_factory=lambda: HOPS)
    """Known `port_type`s and their variants in tables."""
    port_images: tuple[str, ...] = ("image",)
    """Keys of the image that portability questions are about; the first one that a record has."""

    @property
    def target_key(self) -> str:
        """Key of the edit's target."""
        return next(iter(self.asked.values()))[0].target


def _five(prompt: str, loc: str, m_loc: str) -> tuple[Asked, ...]:
    """The edit and its probes in the files that follow EasyEdit's; the forms of their prompts."""
    return (
        Asked(ProbeKind.RELIABILITY, "src", "alt", "image", prompt),
        Asked(ProbeKind.TEXT_GENERALITY, "rephrase", "alt", "image", prompt),
        Asked(ProbeKind.MODAL_GENERALITY, "src", "alt", "image_rephrase", prompt),
        Asked(ProbeKind.TEXT_LOCALITY, "loc", "loc_ans", None, loc),
        Asked(ProbeKind.MODAL_LOCALITY, "m_loc_q", "m_loc_a", "m_loc", m_loc),
    )


def _mmke(numbers: tuple[str, ...], own_prompt: str = "") -> tuple[Asked, ...]:
    """MMKE-Bench: questions about the taught description, numbered; `own_prompt` is the key of the
    prompt of I-Gen, where it is not that of I-Rel."""
    kind = ProbeKind.PORTABILITY
    return (
        *_five(TEXT, TEXT, TEXT),
        *(Asked(kind, f"rel{n}", f"rel_ans{n}", None, variant="T-Rel") for n in numbers),
        *(Asked(kind, f"m_rel{n}", f"m_rel_ans{n}", "image", variant="I-Rel") for n in numbers),
        *(
            Asked(
                kind,
                own_prompt or f"m_rel{n}",
                f"m_rel_ans{n}",
                "image_rephrase",
                variant="I-Gen",
            )
            for n in numbers
        ),
    )


def _mmke_files(split: str) -> tuple[tuple[str, ...], ...]:
    tasks = ("entity", "visual", "user")
    return tuple((f"{task}/{split}.json", f"{task}_{split}.json") for task in tasks)


def _comprehend_edit(form: str) -> tuple[Asked, ...]:
    prefix = "multimodal_locality"
    return (
        Asked(ProbeKind.RELIABILITY, "question", "answer", "image", form),
        Asked(ProbeKind.TEXT_GENERALITY, "rephrase", "answer", "image", form),
        Asked(ProbeKind.TEXT_LOCALITY, "locality_prompt", "locality_ground_truth"),
        Asked(
            ProbeKind.MODAL_LOCALITY,
            f"{prefix}_prompt",
            f"{prefix}_ground_truth",
            f"{prefix}_image",
            _SHORT_ANSWER,
        ),
    )


def _neighbours() -> dict[str, NeighbourList]:
    """ComprehendEdit: its knowledge generalisation and preservation indices."""
    kinds = {"": ProbeKind.NEIGHBOUR_GENERALITY, "ori_rt_": ProbeKind.NEIGHBOUR_LOCALITY}
    return {
        f"{prefix}{likeness}_{place}topk": NeighbourList(
            kind, f"{'farthest' if place else 'nearest'} {name}", bool(place)
        )
        for prefix, kind in kinds.items()
        for place in ("", "last_")
        for likeness, name in (("img", "image"), ("txt", "text"))
    }


LAYOUTS: Mapping[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout(
            name="evqa",
            title="E-VQA",
            files={"train": (("vqa_train.json",),), "evaluation": (("vqa_eval.json",),)},
            file_folders=("", "vqa"),
            image_folders=("images",),
            asked={"": _five(_ANSWER_CUE, f"{TEXT}?", _ANSWER_CUE)},
        ),
        Layout(
            name="eic",
            title="E-IC",
            files={
                "train": (("caption_train_edit.json",),),
                "evaluation": (("caption_eval_edit.json",),),
            },
            file_folders=("", "caption"),
            image_folders=("images",),
            asked={"": _five(TEXT, f"{TEXT}?", _ANSWER_CUE)},
        ),
        Layout(
            name="vlkeb",
            title="VLKEB",
            files={
                "train": (("train.json",),),
                "evaluation": (("eval.json",), ("eval_multihop.json", "eval_edit_onehop.json")),
            },
            image_folders=("mmkb_images", "VLKEB_images"),
            has_entity_folders=True,
            asked={"": _five(TEXT, f"{TEXT}?", _ANSWER_CUE)},
        ),
        Layout(
            name="cckeb",
            title="CCKEB",
            files={"train": (("CCKEB_train.json",),), "evaluation": (("CCKEB_eval.json",),)},
            file_folders=("", "datasets"),
            image_folders=("CCKEB_images/mmkb_images", "VLKEB_images/mmkb_images", "mmkb_images"),
            has_entity_folders=True,
            asked={"": _five(TEXT, TEXT, TEXT)},
            textual=(
                Asked(ProbeKind.RELIABILITY, "textual_edit.src", "textual_edit.alt"),
                Asked(ProbeKind.TEXT_GENERALITY, "textual_edit.rephrase", "textual_edit.alt"),
                Asked(ProbeKind.TEXT_LOCALITY, "textual_edit.loc", "textual_edit.loc_ans"),
            ),
            port_types={**HOPS, "comp": COMPOSITIONAL},
        ),
        Layout(
            name="mmke",
            title="MMKE-Bench",
            files={"train": _mmke_files("train"), "evaluation": _mmke_files("eval")},
            file_folders=("", "data_json"),
            image_folders=("data_image",),
            has_long_targets=True,
            form_key="knowledge_type",
            asked={
                "entity_level": _mmke(("_1", "_2")),
                "user_specific": _mmke(("_1", "_2")),
                "visual_knowledge": _mmke(("",), "image_rephrase_question"),
            },
            aliases={
                f"{name}_{n}_ans": f"{name}_ans_{n}" for name in ("rel", "m_rel") for n in "12"
            },
            tags={"domain": "knowledge_type"},
            port_images=("one_hop_img", "image"),
        ),
        Layout(
            name="comprehendedit",
            title="ComprehendEdit",
            files={
                "train": (("ComprehendEdit_train.json",),),
                "evaluation": (("ComprehendEdit_test.json",), ("ComprehendEdit_ori_right.json",)),
            },
            samples_file="ComprehendEdit_ori_right.json",
            file_folders=("", "ComprehendEdit"),
            image_folders=("ComprehendEdit",),
            form_key="source",
            asked={
                "gqa": _comprehend_edit(_SHORT_ANSWER),
                "tallyqa": _comprehend_edit(
                    f"Question: {TEXT} Answer with a number. Short answer:"
                ),
                "vsr": _comprehend_edit(
                    "Question: Is this description true or false? "
                    f"Description: {TEXT} Short answer:"
                ),
                "textvqa": _comprehend_edit(_SHORT_ANSWER),
                "mathvista": _comprehend_edit(f"{TEXT} Short answer:"),
            },
            tags={"domain": "source", "content": "Category"},
            neighbours=_neighbours(),
        ),
    )
}


def layout_of(name: str) -> Layout:
    """The layout of a benchmark by its short name."""
    if name not in LAYOUTS:
        raise ConfigError(f"benchmark {name!r} is not known; known: {', '.join(LAYOUTS)}")
    return LAYOUTS[name]


def find_files(layout: Layout, data: Path, split: Split) -> tuple[Path, ...]:
    """The JSON files of a split, of the first folder that holds any."""
    files = layout.files[split]
    for folder in layout.file_folders:
        there = [
            [path for name in names if (path := data / folder / name).is_file()] for names in files
        ]
        if any(there):
            return tuple(paths[0] for paths in there if paths)
    looked_for = ", ".join(
        str(Path(folder) / name)
        for folder in layout.file_folders
        for names in files
        for name in names
    )
    raise InputError(f"{layout.title}: {str(data)!r} holds none of {looked_for}")


def find_images(layout: Layout, data: Path) -> Path:
    """The default image root."""
    folders = [data / name for name in layout.image_folders if (data / name).is_dir()]
    return folders[0] if folders else data
