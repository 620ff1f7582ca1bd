"""What hypothesis draws: configurations, and inputs and banks of any small size."""

from hypothesis import strategies as st

from liveedit_core.method.config import GeneratorConfig
from liveedit_core.states import LayerStates
from tests.random_states import random_states
from tests.tiny_backbone import OUR_CONFIG, TINY_CONFIG

CONFIGS: tuple[GeneratorConfig, ...] = (
    TINY_CONFIG,
    OUR_CONFIG.with_changes(visual_size=48),
    TINY_CONFIG.with_changes(visual_query="learned", max_kept=2),
    TINY_CONFIG.with_changes(min_gate=0.5, has_target_embeddings=True),
    TINY_CONFIG.with_changes(soft_routing="average", max_kept=3),
    TINY_CONFIG.with_changes(has_hard_filter=False),
    TINY_CONFIG.with_changes(
        has_own_ranks=True, rank=6, num_target_positions=6, has_target_embeddings=True
    ),
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
