"""Training of other editors: it learns, resumes with the same numbers, and its result is read."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.baselines.trained.checkpoint import CONFIG_FILE, WEIGHTS_FILE, load_rival
from liveedit_core.baselines.trained.settings import RIVALS, LteTraining, RivalName
from liveedit_core.errors import ConfigError, IntegrityError, NumericsError
from liveedit_core.training.data import TrainingData
from liveedit_core.training.recipe import PhaseSection
from pipelines.training.editor_recipe import EditorDataSection, TrainEditorRecipe
from pipelines.training.editors import EditorTrainer, prepare_data
from tests.tiny_backbone import case, tiny_backbone
from tests.unit.tiny_editors import TRAINING, save_tiny_parts, tiny_training_data


@pytest.fixture(scope="module")
def backbone() -> VisionLanguageBackbone:
    return tiny_backbone()


@pytest.fixture(scope="module")
def data(backbone: VisionLanguageBackbone) -> TrainingData:
    return tiny_training_data(backbone)


def recipe_for(name: RivalName, folder: Path, **changes: object) -> TrainEditorRecipe:
    phase = PhaseSection(steps=4, batch_size=5, learning_rate=3e-3)
    return TrainEditorRecipe(
        run_root=str(folder), editor=name, optimization=phase, checkpoint_steps=2
    ).with_changes(**{str(key): section for key, section in TRAINING.items()} | changes)


def quiet(text: str) -> None:
    """Say nothing."""


@pytest.mark.parametrize("name", RIVALS)
def test_a_resumed_run_has_the_weights_of_an_undisturbed_one(
    name: RivalName, backbone: VisionLanguageBackbone, data: TrainingData, tmp_path: Path
) -> None:
    whole = EditorTrainer(recipe_for(name, tmp_path / "whole"), backbone, data, quiet)
    before = {key: value.clone() for key, value in whole.rival.state_dict().items()}
    whole.run()
    recipe = recipe_for(name, tmp_path / "cut")
    cut = EditorTrainer(recipe, backbone, data, quiet)
    cut.run(until=3)  # its last checkpoint is that of step 2
    resumed = EditorTrainer(recipe, backbone, data, quiet)
    assert resumed.step == 2
    resumed.run()
    expected, found = whole.rival.state_dict(), resumed.rival.state_dict()
    assert any(not torch.equal(before[key], value) for key, value in expected.items())
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-6)


def test_the_result_is_read_with_its_facts(
    backbone: VisionLanguageBackbone, data: TrainingData, tmp_path: Path
) -> None:
    trainer = EditorTrainer(recipe_for("recipe", tmp_path), backbone, data, quiet)
    trainer.run()
    trainer.save(tmp_path / "editor")
    part = load_rival("recipe", str(tmp_path / "editor"), backbone)
    for key, value in trainer.rival.state_dict().items():
        torch.testing.assert_close(part.rival.state_dict()[key], value, rtol=1e-3, atol=1e-3)
    assert (part.facts.steps, part.facts.batch_size) == (4, 5)
    assert part.facts.seconds > 0
    assert part.facts.num_parameters == sum(p.numel() for p in trainer.rival.parameters())
    assert not any(parameter.requires_grad for parameter in part.rival.parameters())
    assert len(load_file(tmp_path / "editor" / WEIGHTS_FILE)) == len(trainer.rival.state_dict())


def test_a_trained_part_of_something_else_is_refused(
    backbone: VisionLanguageBackbone, tmp_path: Path
) -> None:
    save_tiny_parts(tmp_path, backbone)
    with pytest.raises(ConfigError, match="holds no trained mend; python pipelines/train_editor"):
        load_rival("mend", str(tmp_path / "nowhere"), backbone)
    with pytest.raises(ConfigError, match="is serac for backbone"):
        load_rival("mend", str(tmp_path / "serac"), backbone)
    with pytest.raises(ConfigError, match=r"expected serac for .* cut at layer 2"):
        load_rival("serac", str(tmp_path / "serac"), backbone.at_layer(2))
    file = tmp_path / "mend" / CONFIG_FILE
    tree = json.loads(file.read_text())
    file.write_text(json.dumps({**tree, "settings": {**tree["settings"], "rank": 3}}))
    with pytest.raises(IntegrityError, match="size mismatch"):
        load_rival("mend", str(tmp_path / "mend"), backbone)
    (tmp_path / "lte" / WEIGHTS_FILE).write_bytes(b"cut off")
    with pytest.raises(IntegrityError, match="trained editor"):
        load_rival("lte", str(tmp_path / "lte"), backbone)


def test_a_run_with_other_settings_is_not_resumed(
    backbone: VisionLanguageBackbone, data: TrainingData, tmp_path: Path
) -> None:
    EditorTrainer(recipe_for("recipe", tmp_path), backbone, data, quiet).run()
    other_editor = recipe_for("recipe", tmp_path, lte=LteTraining(rank=3))
    assert EditorTrainer(other_editor, backbone, data, quiet).step == 4
    with pytest.raises(ConfigError, match="other settings"):
        EditorTrainer(recipe_for("recipe", tmp_path, seed=1), backbone, data, quiet)


def test_a_loss_that_is_not_finite_ends_the_run(
    backbone: VisionLanguageBackbone, data: TrainingData, tmp_path: Path
) -> None:
    trainer = EditorTrainer(recipe_for("recipe", tmp_path), backbone, data, quiet)
    with torch.no_grad():
        next(trainer.rival.parameters()).fill_(float("nan"))
    with pytest.raises(NumericsError, match="lower optimization"):
        trainer.run()


def test_held_out_entities_are_not_trained_on(
    backbone: VisionLanguageBackbone, tmp_path: Path
) -> None:
    cases = [case(seed) for seed in range(8)]
    section = EditorDataSection(num_cases=3, num_pairs=2, held_out_edits=2, validation_cases=2)
    recipe = TrainEditorRecipe(run_root=str(tmp_path), data=section)
    data, held_out = prepare_data(recipe, backbone, cases)
    assert (len(data.cases), len(data.pairs), len(held_out.cases)) == (3, 2, 2)
    trained_on = {one.entity for one in data.cases}
    assert trained_on.isdisjoint(one.entity for one in held_out.cases)
    assert len(data.states([data.cases[0].edit, *data.cases[0].locality])) == 4
