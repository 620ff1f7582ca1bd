"""A generator's configuration refuses what cannot work and survives JSON."""

import json
from typing import Any

import pytest

from liveedit_core.backbones.load_options import LoadOptions
from liveedit_core.builtin.backbone import builtin_generator_folder
from liveedit_core.errors import ConfigError
from liveedit_core.method.config import GeneratorConfig
from liveedit_core.method.generator import CONFIG_FILE
from tests.tiny_backbone import OUR_CONFIG, TINY_CONFIG

RANKED_CONFIG = OUR_CONFIG.with_changes(has_own_ranks=True, rank=4)


@pytest.mark.parametrize(
    "config", [TINY_CONFIG, OUR_CONFIG, RANKED_CONFIG], ids=["paper", "ours", "own ranks"]
)
def test_json_round_trip(config: GeneratorConfig) -> None:
    assert GeneratorConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_the_committed_config_is_written_as_it_was_read() -> None:
    """Its bytes are part of the digest that every bank of the built-in generator stores."""
    text = (builtin_generator_folder() / CONFIG_FILE).read_text()
    config = GeneratorConfig.from_dict(json.loads(text))
    assert (config.visual_filter, config.same_image_ratio) == ("runner_up", 0.98)
    assert json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n" == text


def test_defaults_are_the_papers() -> None:
    config = GeneratorConfig(hidden_size=4096, num_image_tokens=576, edit_layer=21)
    assert (config.module_dim, config.num_queries, config.rank) == (1024, 4, 4)
    assert (config.expert_scale, config.gain, config.max_kept, config.min_gate) == (5.0, 1.0, 0, 0)
    assert (config.visual_source, config.visual_query) == ("edit_layer", "prompt")
    assert config.soft_routing == "prompt"
    assert config.feature_size == 4096


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"rank": 0}, "rank"),
        ({"num_queries": -1}, "num_queries"),
        ({"module_dim": 18}, "module_dim"),
        ({"hidden_size": 30}, "hidden_size"),
        ({"max_kept": -1}, "max_kept"),
        ({"min_gate": -0.5}, "min_gate"),
        ({"edit_layer": -1}, "edit_layer"),
        ({"visual_size": 64}, "visual_size"),
        ({"num_sentinels": 2}, "num_sentinels"),
        ({"visual_source": "tower_pyramid"}, "visual_size"),
        ({"same_image_ratio": 0}, "same_image_ratio"),
        ({"visual_gate": -1}, "visual_gate"),
        ({"visual_source": "tower_pyramid", "visual_size": 9}, "visual_rank"),
        ({"has_own_ranks": True}, "has_own_ranks"),
        ({"has_own_ranks": True, "rank": 5, "num_target_positions": 4}, "has_own_ranks"),
        (OUR_CONFIG.to_dict() | {"visual_rank": 31}, "visual_rank"),
        (OUR_CONFIG.to_dict() | {"nearest_sentinels": 6}, "nearest_sentinels"),
        (OUR_CONFIG.to_dict() | {"turned_levels": [[8, 2]]}, "turned_levels"),
        (OUR_CONFIG.to_dict() | {"turned_levels": 3}, "turned_levels"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_impossible_values_are_refused_by_name(change: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        GeneratorConfig.from_dict(TINY_CONFIG.to_dict() | change)


def test_unknown_fields_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="ranks"):
        GeneratorConfig.from_dict(TINY_CONFIG.to_dict() | {"ranks": 3})


def test_missing_fields_are_refused_by_name() -> None:
    values = TINY_CONFIG.to_dict()
    del values["edit_layer"]
    with pytest.raises(ConfigError, match="edit_layer"):
        GeneratorConfig.from_dict(values)


def test_generators_of_one_backbone_need_views_only_where_they_see_pyramids() -> None:
    committed = json.loads((builtin_generator_folder() / CONFIG_FILE).read_text())
    ours, paper = GeneratorConfig.from_dict(committed), TINY_CONFIG
    assert (ours.has_image_views, paper.visual_size) == (True, 0)
    for order in ((ours, paper), (paper, ours)):
        options = LoadOptions()
        for config in order:
            options = config.load_options(options)
        assert options.has_image_views
