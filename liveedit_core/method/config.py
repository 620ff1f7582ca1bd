"""Shape and behaviour of a generator; saved beside its weights as `config.json`."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, Self

from liveedit_core.errors import ConfigError

VisualSource = Literal["edit_layer", "tower_pyramid"]
VisualQuery = Literal["prompt", "learned"]
StateDtype = Literal["float16", "bfloat16", "float32"]
"""Number formats that rows at l_e may have at rest; in use they are float32."""
SoftRouting = Literal["prompt", "prompt_and_visual", "average"]


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """All that decides what a generator computes; the defaults are the paper's."""

    hidden_size: int
    """D: width of the language model."""
    num_image_tokens: int
    """I: image rows of one image."""
    edit_layer: int
    """l_e, 0-based: the output of this decoder layer is edited."""
    module_dim: int = 1024
    """M: width of routing features."""
    num_queries: int = 4
    """Q: learned query tokens of a routing feature."""
    num_attention_heads: int = 8
    """H: heads of every cross attention."""
    rank: int = 4
    """R: rank of an expert."""
    expert_scale: float = 5.0
    """Generated matrices are divided by `expert_scale * sqrt(R)`."""
    gain: float = 1.0
    """Factor of the residual: 1 in the paper, else calibrated to the rows of the backbone."""
    visual_source: VisualSource = "edit_layer"
    """What is behind the visual feature: image rows at l_e (paper), or one row with a pyramid of
    the image tower's levels (see `visual_key`)."""
    visual_size: int = 0
    """E: width of a pyramid; 0 without one."""
    visual_rank: int = 0
    """Width of the linear map of a pyramid; 0 without one."""
    num_sentinels: int = 1
    """C: 1 in the paper, whose sentinel is an image; a pyramid is compared with a crowd."""
    nearest_sentinels: int = 1
    """How many of the crowd, the nearest, make the threshold."""
    visual_query: VisualQuery = "prompt"
    """What attends the image rows at l_e: phi after the prompt rows (Eq. 3), or phi itself."""
    soft_routing: SoftRouting = "prompt"
    """Softmax over prompt similarities (Eq. 7), or with the visual margin added; "average" gives
    all kept experts the same weight (the paper's ablation)."""
    has_hard_filter: bool = True
    """Whether an expert must beat the sentinel to be kept (Eq. 5); without it `max_kept` and
    `min_gate` are the only bounds (the paper's ablation)."""
    max_kept: int = 0
    """Keep at most this many experts, the best by visual similarity; 0 means no bound. Experts that
    tie with the last one (edits of one image) stay too, so that order carries no meaning."""
    visual_gate: float = 0.0
    """With more than 0, weights are also multiplied by sigmoid(visual_gate * (visual margin -
    midpoint)): the hard filter may then let doubtful experts pass, for they answer with little
    weight. 0, as in the paper, for no such factor."""
    visual_midpoint: float = 0.0
    """Visual margin at which `visual_gate` halves the weight."""
    rival_midpoint: float = 0.0
    """The same for the experts of other images, where the very image asked about was edited
    itself: then there is less reason to believe them."""
    twin_share: float = 1.0
    """The very image asked about: an expert whose visual margin reaches this share of what the
    same image would have."""
    min_gate: float = 0.0
    """Experts with sigmoid(prompt similarity) under this are not kept; 0 in the paper."""
    num_target_positions: int = 0
    """Learned position embeddings on target rows of the generator; 0 (none) in the paper."""
    has_target_embeddings: bool = False
    """Let the generator also see the input embeddings of the target tokens."""

    def __post_init__(self) -> None:
        for (
            name
        ) in "hidden_size num_image_tokens module_dim num_queries num_attention_heads rank".split():
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected at least 1, got {getattr(self, name)}")
        for name in ("module_dim", "hidden_size"):
            if getattr(self, name) % self.num_attention_heads:
                raise ConfigError(
                    f"{name}: {getattr(self, name)} is not a multiple of num_attention_heads "
                    f"({self.num_attention_heads})"
                )
        if self.visual_source == "tower_pyramid":
            self._check_pyramid()
        elif (self.visual_size, self.visual_rank, self.num_sentinels) != (0, 0, 1):
            raise ConfigError(
                "visual_size, visual_rank and num_sentinels: for visual_source tower_pyramid only"
            )
        if not 0 < self.twin_share <= 1:
            raise ConfigError(f"twin_share: expected more than 0, at most 1, got {self.twin_share}")
        for (
            name
        ) in "edit_layer visual_size max_kept visual_gate min_gate num_target_positions".split():
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}: expected 0 or more, got {getattr(self, name)}")

    def _check_pyramid(self) -> None:
        if self.visual_size < 1:
            raise ConfigError(f"visual_size: a pyramid needs 1 or more, got {self.visual_size}")
        largest = self.feature_size - 2
        if not 1 <= self.visual_rank <= largest:
            raise ConfigError(
                f"visual_rank: a pyramid needs 1 to {largest} (num_queries * module_dim - 2), got "
                f"{self.visual_rank}"
            )
        if not 1 <= self.nearest_sentinels <= self.num_sentinels:
            raise ConfigError(
                f"nearest_sentinels: expected 1 to num_sentinels ({self.num_sentinels}), got "
                f"{self.nearest_sentinels}"
            )

    @property
    def feature_size(self) -> int:
        """K = Q * M: length of a flattened routing feature."""
        return self.num_queries * self.module_dim

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Inverse of `to_dict`.

        Raises:
            ConfigError: unknown or missing fields.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ConfigError(f"generator config: unknown fields {', '.join(unknown)}")
        try:
            return cls(**values)
        except TypeError as error:
            raise ConfigError(f"generator config: {error}") from error


@dataclass(frozen=True, kw_only=True)
class VisualKeyRecipe:
    """How the visual key of a pyramid is fitted (see `visual_key_fit`)."""

    num_components: int = 1024
    """Principal components of the pyramids that are looked at."""
    ridge: float = 0.3
    """Added to the covariance within entities, as a share of its mean variance."""
    stranger_fraction: float = 0.18
    """Share of images of untaught entities that may pass the threshold of some expert."""
    answer_fraction: float = 0.13
    """Share of them that may pass `GeneratorConfig.visual_midpoint` as well."""
    rival_fraction: float = 0.08
    """Share of them that may pass `GeneratorConfig.rival_midpoint`."""

    def __post_init__(self) -> None:
        for name in ("num_components", "ridge"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be more than 0, got {getattr(self, name)}")
        falling = (self.stranger_fraction, self.answer_fraction, self.rival_fraction)
        for name, value in zip(("stranger", "answer", "rival"), falling, strict=True):
            if not 0 < value < 1:
                raise ConfigError(f"{name}_fraction must be between 0 and 1, got {value}")
        if sorted(falling, reverse=True) != list(falling):
            raise ConfigError(
                "stranger_fraction, answer_fraction and rival_fraction must not grow, got "
                f"{', '.join(map(str, falling))}"
            )
