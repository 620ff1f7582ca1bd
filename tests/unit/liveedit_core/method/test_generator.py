"""A generator reads the right hidden states, and its checkpoint keeps every bit."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from liveedit_core.errors import ConfigError, IntegrityError, ShapeError
from liveedit_core.method.config import GeneratorConfig
from liveedit_core.method.generator import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    LiveEditGenerator,
    load_generator,
    save_generator,
)
from liveedit_core.states import LayerStates
from tests.random_states import random_states
from tests.tiny_backbone import OUR_CONFIG, TINY_CONFIG, tiny_generator


@pytest.mark.parametrize("config", [TINY_CONFIG, OUR_CONFIG], ids=["paper", "ours"])
def test_loading_gives_the_same_numbers(tmp_path: Path, config: GeneratorConfig) -> None:
    generator = tiny_generator(config)
    digest = save_generator(generator, tmp_path / "checkpoint")
    copy = load_generator(tmp_path / "checkpoint")
    assert copy.digest == digest
    assert copy.config == config
    states = [random_states(seed, config=config) for seed in range(3)]
    for first, second in zip(
        generator.write_matrices(states), copy.write_matrices(states), strict=True
    ):
        assert torch.equal(first, second)
    assert torch.equal(
        generator.input_features(states).visual_BQM, copy.input_features(states).visual_BQM
    )
    assert not any(parameter.requires_grad for parameter in copy.parameters())


def test_the_digest_is_of_weights_and_config(tmp_path: Path) -> None:
    first = save_generator(tiny_generator(seed=0), tmp_path / "a")
    assert save_generator(tiny_generator(seed=0), tmp_path / "b") == first
    assert save_generator(tiny_generator(seed=1), tmp_path / "c") != first
    other = TINY_CONFIG.with_changes(gain=2.0)
    assert save_generator(tiny_generator(other), tmp_path / "d") != first


def test_raw_prompts_are_recorded_and_checkpoints_for_other_prompts_stay_as_they_were(
    tmp_path: Path,
) -> None:
    chat = save_generator(tiny_generator(), tmp_path / "chat")
    assert "prompt_protocol" not in (tmp_path / "chat" / CONFIG_FILE).read_text()
    raw = TINY_CONFIG.with_changes(prompt_protocol="paper")
    assert save_generator(tiny_generator(raw), tmp_path / "paper") != chat
    assert load_generator(tmp_path / "chat").config.prompt_protocol == "chat"
    assert load_generator(tmp_path / "paper").config == raw


@pytest.mark.parametrize("name", [WEIGHTS_FILE, CONFIG_FILE])
def test_a_missing_file_is_an_integrity_error(tmp_path: Path, name: str) -> None:
    save_generator(tiny_generator(), tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(IntegrityError, match=tmp_path.name):
        load_generator(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"), [(WEIGHTS_FILE, b"\x08"), (CONFIG_FILE, b"{"), (CONFIG_FILE, b"\xff\xfe")]
)
def test_a_damaged_file_is_an_integrity_error(tmp_path: Path, name: str, content: bytes) -> None:
    save_generator(tiny_generator(), tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(IntegrityError, match=tmp_path.name):
        load_generator(tmp_path)


def test_weights_of_another_shape_are_an_integrity_error(tmp_path: Path) -> None:
    save_generator(tiny_generator(), tmp_path)
    config = json.loads((tmp_path / CONFIG_FILE).read_text())
    (tmp_path / CONFIG_FILE).write_text(json.dumps(config | {"rank": 3}))
    with pytest.raises(IntegrityError, match="query"):
        load_generator(tmp_path)
    (tmp_path / CONFIG_FILE).write_text(json.dumps(config | {"rang": 3}))
    with pytest.raises(ConfigError, match="rang"):
        load_generator(tmp_path)


def test_the_edit_signal_is_image_prompt_and_target() -> None:
    state = random_states(1, num_prompt=3, num_target=2, num_before=4)
    signal, position = tiny_generator(TINY_CONFIG).edit_signal([state])
    assert torch.equal(signal.values_BSD[0], state.hidden_TD[4:])
    assert position.shape == (1, 9)


def test_our_edit_signal_numbers_target_tokens_and_adds_their_embeddings() -> None:
    state = random_states(1, num_prompt=3, num_target=6, config=OUR_CONFIG)
    generator = tiny_generator(OUR_CONFIG)
    signal, position = generator.edit_signal([state])
    expected = torch.cat([state.hidden_TD, state.target_embeddings_OD, generator.end_row()])
    assert torch.equal(signal.values_BSD[0], expected)
    targets = [2, 3, 4, 5, 5, 5]  # four positions: later tokens share the last
    embeddings = [index + 4 for index in targets]
    assert position[0].tolist() == [0] * 6 + [1] + targets + embeddings + [9]


def test_a_copier_attends_to_one_target_token_per_slot() -> None:
    config = OUR_CONFIG.with_changes(hidden_size=64, module_dim=64, num_target_positions=4, rank=3)
    state = random_states(3, num_prompt=3, num_target=3, config=config)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator = LiveEditGenerator(config)
    with torch.no_grad():
        _, up_1RD = generator.write_matrices([state])
    copied = generator.up_generator.norm(state.target_embeddings_OD) * generator.up_generator.scale
    cosines = torch.nn.functional.cosine_similarity(up_1RD[0, :, None], copied[None], dim=-1)
    assert cosines.argmax(1).tolist() == [0, 1, 2]
    assert cosines.detach().diagonal().min().item() > 0.4


OWN_RANKS = OUR_CONFIG.with_changes(
    hidden_size=64, module_dim=64, num_target_positions=6, rank=6, has_own_ranks=True
)


def test_an_expert_has_a_slot_for_each_target_token_and_the_end() -> None:
    states = [random_states(n, num_target=n, config=OWN_RANKS) for n in (1, 5, 3)]
    generator = tiny_generator(OWN_RANKS)
    assert generator.ranks(states).tolist() == [2, 6, 4]
    same = tiny_generator(OWN_RANKS.with_changes(has_own_ranks=False))
    for own_BRD, whole_BRD in zip(
        generator.write_matrices(states), same.write_matrices(states), strict=True
    ):
        for row, rank in enumerate((2, 6, 4)):
            assert torch.equal(own_BRD[row, :rank], whole_BRD[row, :rank])
            assert not own_BRD[row, rank:].any()
            assert whole_BRD[row].abs().sum(-1).all()
    copied = generator.up_generator.norm(generator.end_row()) * generator.up_generator.scale
    up_BRD = generator.write_matrices(states)[1]
    ends = torch.stack([up_BRD[0, 1], up_BRD[1, 5], up_BRD[2, 3]])
    assert torch.nn.functional.cosine_similarity(ends, copied).min().item() > 0.4


def test_a_target_that_the_expert_does_not_hold_is_refused() -> None:
    assert OWN_RANKS.max_target_tokens == 5
    assert OUR_CONFIG.max_target_tokens is None
    states = [random_states(n, num_target=n, config=OWN_RANKS) for n in (5, 6)]
    with pytest.raises(ShapeError, match=r"a target has 6 tokens; an expert .* holds 5"):
        tiny_generator(OWN_RANKS).write_matrices(states)


def test_routing_never_sees_the_target() -> None:
    generator = tiny_generator(TINY_CONFIG)
    state = random_states(1)
    other = state.hidden_TD.clone()
    other[slice(*state.target_span)] = 7.0
    changed = replace(state, hidden_TD=other)
    first, second = generator.input_features([state]), generator.input_features([changed])
    assert torch.equal(first.visual_BQM, second.visual_BQM)
    assert torch.equal(first.prompt_BQM, second.prompt_BQM)
    assert first.sentinel_BQM is not None
    assert generator.edit_features([state]).sentinel_BQM is None
    assert not torch.equal(
        generator.write_matrices([state])[0], generator.write_matrices([changed])[0]
    )


def test_checkpoints_name_learned_tensors_after_their_attribute(tmp_path: Path) -> None:
    """Older checkpoints hold a plain `end_row` and a `visual_weight` without a dimension."""
    generator = tiny_generator(OUR_CONFIG)
    save_generator(generator, tmp_path)
    tensors = load_file(tmp_path / WEIGHTS_FILE)
    assert torch.equal(tensors["end_row"], generator.end_row())
    assert tensors["visual_weight"].shape == ()
    assert not any(name.endswith(".value") for name in tensors)
    other = tiny_generator(OUR_CONFIG, seed=4)
    other.load_state_dict(tensors)
    assert torch.equal(other.end_row(), generator.end_row())


def test_every_parameter_is_used_in_the_forward_of_its_own_module() -> None:
    """Required by ZeRO-3; here weights exist only while that forward runs."""
    learned = TINY_CONFIG.with_changes(visual_query="learned")
    for config in (TINY_CONFIG, OUR_CONFIG, OWN_RANKS, learned):
        generator = tiny_generator(config)
        states = [random_states(seed, config=config) for seed in range(2)]
        expected = everything(generator, states)
        for module in generator.modules():
            if own := dict(module.named_parameters(recurse=False)):
                whole = {name: parameter.data for name, parameter in own.items()}
                away(module, whole)
                module.register_forward_pre_hook(lambda m, _, whole=whole: back(m, whole))
                module.register_forward_hook(lambda m, _, __, whole=whole: away(m, whole))
        for found, wanted in zip(everything(generator, states), expected, strict=True):
            assert torch.equal(found, wanted)


def back(module: torch.nn.Module, whole: dict[str, torch.Tensor]) -> None:
    for name, value in whole.items():
        getattr(module, name).data = value


def away(module: torch.nn.Module, whole: dict[str, torch.Tensor]) -> None:
    for name in whole:
        getattr(module, name).data = torch.empty(0)


def everything(generator: LiveEditGenerator, states: list[LayerStates]) -> list[torch.Tensor]:
    features = [generator.edit_features(states), generator.input_features(states)]
    tensors = [tensor for feature in features for tensor in feature if tensor is not None]
    evidence = torch.as_tensor(generator.margin_weight())
    return [*tensors, *generator.write_matrices(states), evidence]
