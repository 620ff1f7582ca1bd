"""What hypothesis draws: configurations, and inputs and banks of any small size."""

from dataclasses import replace

from hypothesis import strategies as st

from liveedit_core.method.config import GeneratorConfig
from liveedit_core.states import LayerStates
from tests.random_states import random_states
from tests.tiny_backbone import OUR_CONFIG, TINY_CONFIG

CONFIGS: tuple[GeneratorConfig, ...] = (
    TINY_CONFIG,
    replace(OUR_CONFIG, visual_size=48),
    replace(TINY_CONFIG, visual_query="learned", max_kept=2),
    replace(TINY_CONFIG, min_gate=0.5, has_target_embeddings=True),
    replace(TINY_CONFIG, soft_routing="average", max_kept=3),
    replace(TINY_CONFIG, has_hard_filter=False),
)

configs = st.sampled_from(CONFIGS)
seeds = st.integers(0, 10_000)


@st.composite
def states(draw: st.DrawFn, config: GeneratorConfig, least: int, most: int) -> list[LayerStates]:
    """Some inputs of different lengths, their images anywhere in the text."""
    size = draw(st.integers(least, most))
    return [
        random_states(
            draw(seeds),
            num_prompt=draw(st.integers(1, 6)),
            num_target=draw(st.integers(1, 5)),
            num_before=draw(st.integers(0, 2)),
            config=config,
        )
        for _ in range(size)
    ]
