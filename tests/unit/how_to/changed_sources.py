"""What the how-tos change where the package lists what it knows, on linked sources."""

from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
HERE = "tests/unit/how_to"
Changes = Mapping[str, str | Mapping[str, str]]
"""By file: the file that it is a copy of, or new lines by the lines after which they come."""

METRIC: Changes = {
    "liveedit_core/schema.py": {
        '    CORRECTION = "correction"\n': '    CAPTION_LOCALITY = "caption_locality"\n'
    },
    "infra/reports/metrics.py": {
        "METRIC_NOTES = {\n": '    ProbeKind.CAPTION_LOCALITY: "a caption",\n'
    },
}
_TRIALS = """        {{}},
        {{"{key}": 1e-5}},
        {{"{key}": 3e-5}},
        {{"{key}": 1e-3}},
        {{"{key}": 3e-3}},
        {{"{key}": 1e-2}},
        {{"{key}": 3e-2}},
        {{"{key}": 1e-1}},
"""
EDITOR: Changes = {
    "liveedit_core/baselines/attention_tuning.py": f"{HERE}/attention_tuning.py",
    "pipelines/baselines/recipe.py": {
        "EDITORS = (\n": '    "ft-attention",\n',
        "SECTIONS: Mapping[str, str] = {\n": '    "ft-attention": "attention_tuning",\n',
        "    wise: WiseConfig = WiseConfig()\n": (
            "    attention_tuning: FineTuningConfig = FineTuningConfig()\n"
        ),
    },
    "pipelines/baselines/editors.py": {
        "from liveedit_core.backbones.vision_language import VisionLanguageBackbone\n": (
            "from liveedit_core.baselines.attention_tuning import AttentionTuning\n"
        ),
        "    makers: dict[str, Callable[[], ComparedEditor]] = {\n": (
            '        "ft-attention": lambda: AttentionTuning(\n'
            "            backbone, recipe.attention_tuning, batch_size=size\n"
            "        ),\n"
        ),
    },
    "pipelines/baselines/search_space.py": {
        "SEARCH_SPACE: Mapping[str, tuple[Changes, ...]] = {\n": (
            '    "ft-attention": (\n' + _TRIALS.format(key="learning_rate") + "    ),\n"
        )
    },
}
TRAINED_EDITOR: Changes = {
    "liveedit_core/baselines/trained/learned_rates.py": f"{HERE}/learned_rates.py",
    "liveedit_core/baselines/trained/settings.py": {"RivalName = Literal[": '"rates", '},
    "liveedit_core/baselines/trained/makers.py": {
        "from liveedit_core.baselines.protocol import ComparedEditor\n": (
            "from liveedit_core.baselines.trained.learned_rates import (\n"
            "    LearnedRates,\n"
            "    LearnedRatesEditor,\n"
            ")\n"
        ),
        "_TRAINING: Mapping[str, type[Settings]] = {\n": '    "rates": MendTraining,\n',
        "_RIVALS: Mapping[str, Any] = {": '"rates": LearnedRates, ',
        "_EDITORS: Mapping[str, Any] = {\n": '    "rates": LearnedRatesEditor,\n',
    },
    "pipelines/training/editor_recipe.py": {
        "    mend: MendTraining = MendTraining()\n": "    rates: MendTraining = MendTraining()\n"
    },
    "pipelines/baselines/recipe.py": {
        "    mend: MendConfig = MendConfig()\n": "    rates: MendConfig = MendConfig()\n"
    },
    "pipelines/baselines/search_space.py": {
        "SEARCH_SPACE: Mapping[str, tuple[Changes, ...]] = {\n": (
            '    "rates": (\n' + _TRIALS.format(key="update_scale") + "    ),\n"
        )
    },
    "tests/unit/tiny_editors.py": {
        "TRAINING: dict[RivalName, Settings] = {\n": (
            '    "rates": MendTraining(num_layers=1, initial_rate=3e-3),\n'
        ),
        "EDITING: dict[RivalName, Settings] = {\n": (
            '    "rates": MendConfig(update_scale=1e4),\n'
        ),
    },
}
_ASKED = "".join(
    f"                    Asked(ProbeKind.{asked}),\n"
    for asked in (
        'RELIABILITY, "question", "answer", "image", _SHORT_ANSWER',
        'TEXT_GENERALITY, "reworded", "answer", "image", _SHORT_ANSWER',
        'MODAL_GENERALITY, "question", "answer", "image_rephrase", _SHORT_ANSWER',
        'TEXT_LOCALITY, "loc", "loc_ans"',
        'MODAL_LOCALITY, "m_loc_q", "m_loc_a", "m_loc"',
    )
)
BENCHMARK: Changes = {
    "liveedit_core/published/layout.py": {
        "    layout.name: layout\n    for layout in (\n": (
            "        Layout(\n"
            '            name="garden",\n'
            '            title="Garden",\n'
            '            files={"train": (("train.json",),), "evaluation": (("garden.json",),)},\n'
            '            image_folders=("photos",),\n'
            f'            asked={{"": (\n{_ASKED}            )}},\n'
            "        ),\n"
        )
    },
    "pipelines/job/sections.py": {"PublishedName = Literal[": '"garden", '},
    "tests/published_files.py": {
        "FILES = {\n": (
            '    ("garden", "train"): "train.json",\n    ("garden", "evaluation"): "garden.json",\n'
        ),
        "MAKERS: Mapping[str, Callable[[int], dict[str, Any]]] = {\n": (
            '    "garden": lambda number: {\n'
            '        {"src": "question", "alt": "answer", "rephrase": "reworded"}.get(k, k): text\n'
            "        for k, text in record(number).items()\n"
            "    },\n"
        ),
    },
}


def changed_sources(target: Path, changes: Changes) -> Path:
    """The tree of the project by links, but for the files that are changed; returns its root."""
    for name, change in changes.items():
        file = Path(name)
        _link_all_but(target, file)
        if isinstance(change, str):
            text = (ROOT / change).read_text(encoding="utf-8")
        else:
            text = (ROOT / file).read_text(encoding="utf-8")
            for line, more in change.items():
                assert text.count(line) == 1, (name, line)
                text = text.replace(line, line + more)
        (target / file).write_text(text, encoding="utf-8")
    return target


def _link_all_but(target: Path, file: Path) -> None:
    """Links to everything but one file and the folders that it lies in."""
    for folder in (Path(), *reversed(file.parents[:-1])):
        (target / folder).mkdir(parents=True, exist_ok=True)
        for item in (ROOT / folder).iterdir():
            link = target / folder / item.name
            if link.is_symlink() and file.is_relative_to(folder / item.name):
                link.unlink()  # of an earlier file's turn
            elif not link.exists() and not file.is_relative_to(folder / item.name):
                link.symlink_to(item)
