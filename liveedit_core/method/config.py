"""Shape and variants of a generator; stored beside its weights as `config.json`."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from liveedit_core.backbones.load_options import LoadOptions, PromptProtocol
from liveedit_core.errors import ConfigError
from liveedit_core.settings import (
    Count,
    NonNegative,
    OpenFraction,
    Positive,
    PositiveFraction,
    PositiveInt,
    Settings,
)

VisualSource = Literal["edit_layer", "tower_pyramid"]
PromptSource = Literal["edit_layer", "sentences"]
"""The second finds what is asked after a long preamble; the first is better at short questions."""
VisualQuery = Literal["prompt", "learned"]
StateDtype = Literal["float16", "bfloat16", "float32"]
"""In which hidden states are stored; they are always used as float32."""
SoftRouting = Literal["prompt", "prompt_and_visual", "average"]
VisualFilter = Literal["sentinel", "runner_up"]
NUM_VIEWS = 4
"""Of an image of a question: as it is, mirrored, turned left and right (`visual_key`)."""

DEFAULT_BUDGET = 0.02
"""Of new banks and models, and of those that were stored without one."""
MAX_BUDGET = 0.5
Budget = Annotated[float, Field(gt=0, le=MAX_BUDGET)]
"""Share of questions about other images that may keep an expert (`calibration`)."""


def checked_budget(value: object) -> float:
    """The same; ConfigError when it is no `Budget`."""
    if not (isinstance(value, int | float) and 0 < value <= MAX_BUDGET):
        raise ConfigError(
            f"false_activation must be above 0 and at most {MAX_BUDGET:g}, got {value!r}"
        )
    return value


STORED_NAMES = {"other_image_midpoint": "rival_midpoint", "same_image_ratio": "twin_share"}
"""Fields that have another name in `config.json`. The stored names cannot change: a checkpoint's
digest covers the bytes of the file, and every bank refers to it."""

LATER_FIELDS = frozenset(
    {
        "has_own_ranks",
        "prompt_protocol",
        "prompt_source",
        "prompt_size",
        "prompt_rank",
        "prompt_anchors",
        "visual_filter",
        "turned_levels",
    }
)
"""Fields that `config.json` holds only where they are not at their defaults; same reason."""


def _as_tuples(value: object) -> object:
    """JSON knows lists alone."""
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


class GeneratorConfig(Settings):
    """Everything that determines what a generator computes; the defaults are the paper's."""

    hidden_size: PositiveInt
    """D: hidden size of the language model."""
    num_image_tokens: PositiveInt
    """I: tokens of one image."""
    edit_layer: Count
    """l_e, 0-based: the output of this decoder layer is edited."""
    module_dim: PositiveInt = 1024
    """M: width of routing features."""
    num_queries: PositiveInt = 4
    """Q: learned queries of a routing feature."""
    num_attention_heads: PositiveInt = 8
    """H: heads of every cross attention."""
    rank: PositiveInt = 4
    """R: rank of an expert."""
    expert_scale: float = 5.0
    """Generated matrices are divided by `expert_scale * sqrt(R)`."""
    gain: float = 1.0
    """Factor of the residual: 1 in the paper, else calibrated to the backbone's hidden states."""
    visual_source: VisualSource = "edit_layer"
    """Input of the visual feature: hidden states of the image at l_e (paper), or a pyramid of image
    tower levels (see `visual_key`)."""
    visual_size: Count = 0
    """E: width of a pyramid; 0 without one."""
    visual_rank: Count = 0
    """Width of a pyramid's linear projection; 0 without one."""
    turned_levels: Annotated[tuple[tuple[int, int], ...], BeforeValidator(_as_tuples)] = ()
    """Channels and cells a side of a pyramid's levels, where the key knows what the tower sees of a
    turned image; else () and a turned image is another one."""
    num_sentinels: PositiveInt = 1
    """C: 1 in the paper, where the sentinel replaces the image; a visual key has many."""
    nearest_sentinels: PositiveInt = 1
    """How many of the nearest sentinels determine the threshold."""
    prompt_source: PromptSource = "edit_layer"
    """Input of the prompt feature: hidden states of the prompt at l_e (paper), or sentence
    embeddings of the bare prompt (see `prompt_key`)."""
    prompt_size: Count = 0
    """P: width of those embeddings; 0 without them."""
    prompt_rank: Count = 0
    """Width of their linear projection; 0 without them."""
    prompt_anchors: Count = 0
    """Known questions that say how common an embedding is; 0 for no correction."""
    visual_query: VisualQuery = "prompt"
    """Query of the image at l_e: phi after attending to the prompt (Eq. 3), or phi itself."""
    soft_routing: SoftRouting = "prompt"
    """Softmax over prompt similarities (Eq. 7), or with the visual margin added; "average" gives
    all kept experts the same weight (the paper's ablation)."""
    visual_filter: VisualFilter = "sentinel"
    """What an expert's image must beat to be kept: the sentinel alone (Eq. 5), or the most similar
    of the sentinels and the images of other edits (see `routing`)."""
    has_hard_filter: bool = True
    """Whether an expert must beat the sentinel to be kept (Eq. 5); without it, `max_kept` and
    `min_gate` are the only bounds (the paper's ablation)."""
    max_kept: Count = 0
    """Keep at most this many experts, by visual similarity; 0 for no bound. Experts that tie with
    the last one (edits of one image) are kept too, so that order does not matter. As many textual
    ones are kept beside them, by prompt similarity."""
    visual_gate: NonNegative = 0.0
    """Above 0, weights are also multiplied by sigmoid(visual_gate * (visual margin - midpoint)), so
    that an expert that barely passes the hard filter gets little weight. 0 (off) in the paper."""
    visual_midpoint: float = 0.0
    """Visual margin at which `visual_gate` halves the weight."""
    other_image_midpoint: float = 0.0
    """The same for experts of other images, when the image itself was edited: they are then less
    likely to be meant."""
    same_image_ratio: PositiveFraction = 1.0
    """An expert counts as an edit of the image itself when its visual margin reaches this share of
    the margin that the image has with itself."""
    min_gate: NonNegative = 0.0
    """Experts with sigmoid(prompt similarity) below this are not kept; 0 in the paper. With
    sentence embeddings, those that are kept have full weight."""
    num_target_positions: Count = 0
    """Learned position embeddings of target tokens; 0 (none) in the paper."""
    has_target_embeddings: bool = False
    """Whether the generator also sees the input embeddings of the target tokens."""
    has_own_ranks: bool = False
    """Whether an expert has one slot for each token of its target and one for the end, `rank` being
    the most, instead of `rank` slots whatever its target; not in the paper."""
    prompt_protocol: PromptProtocol = "chat"
    """How prompts were worded in training; the authors' checkpoints know raw ones ("paper")."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, size in (("module_dim", self.module_dim), ("hidden_size", self.hidden_size)):
            if size % self.num_attention_heads:
                raise ValueError(
                    f"{name}: {size} is not a multiple of num_attention_heads "
                    f"({self.num_attention_heads})"
                )
        if self.has_own_ranks and not 2 <= self.rank <= self.num_target_positions:
            raise ValueError(
                f"has_own_ranks: each slot belongs to a target position; expected a rank of 2 to "
                f"num_target_positions ({self.num_target_positions}), got {self.rank}"
            )
        if self.visual_source != "tower_pyramid":
            if (self.visual_size, self.visual_rank, self.num_sentinels) != (0, 0, 1):
                raise ValueError(
                    "visual_size, visual_rank and num_sentinels: for visual_source tower_pyramid "
                    "only"
                )
        elif self.visual_size < 1:
            raise ValueError(f"visual_size: a pyramid needs 1 or more, got {self.visual_size}")
        else:
            self._check_rank("visual_rank")
            if self.nearest_sentinels > self.num_sentinels:
                raise ValueError(
                    f"nearest_sentinels: expected at most num_sentinels ({self.num_sentinels}), "
                    f"got {self.nearest_sentinels}"
                )
        sizes = [width * side**2 for width, side in self.turned_levels]
        if sizes and (sum(sizes) != self.visual_size or self.visual_filter != "runner_up"):
            raise ValueError(
                f"turned_levels: for visual_filter runner_up, and a pyramid of {self.visual_size}; "
                f"theirs has {sum(sizes)}"
            )
        has_pyramid = self.visual_source == "tower_pyramid"
        if self.visual_filter == "runner_up" and (not has_pyramid or self.visual_gate):
            raise ValueError(
                "visual_filter: runner_up needs visual_source tower_pyramid, and visual_gate 0"
            )
        if self.prompt_source == "sentences":
            if self.prompt_size < 1:
                raise ValueError(f"prompt_size: embeddings need 1 or more, got {self.prompt_size}")
            self._check_rank("prompt_rank")
        elif self.prompt_size or self.prompt_rank or self.prompt_anchors:
            raise ValueError(
                "prompt_size, prompt_rank and prompt_anchors: for prompt_source sentences only"
            )
        return self

    def _check_rank(self, name: str) -> None:
        largest = self.feature_size - 2
        if not 1 <= getattr(self, name) <= largest:
            raise ValueError(
                f"{name}: a pyramid needs 1 to {largest} (num_queries * module_dim - 2), got "
                f"{getattr(self, name)}"
            )

    @property
    def max_target_tokens(self) -> int | None:
        """Longest target that an expert holds, without the end; None where all share its slots."""
        return self.rank - 1 if self.has_own_ranks else None

    @property
    def has_gate_of_sentences(self) -> bool:
        """Whether a prompt key alone says which prompts mean an edit."""
        return self.prompt_source == "sentences" and self.min_gate > 0

    @property
    def has_image_views(self) -> bool:
        """Whether pyramids are those of trimmed images and of figures in them."""
        return self.visual_filter == "runner_up"

    @property
    def feature_size(self) -> int:
        """K = Q * M: length of a flattened routing feature."""
        return self.num_queries * self.module_dim

    @property
    def visual_width(self) -> int:
        """Length of the visual feature of an edit: a whole routing feature, or one row."""
        return self.visual_rank if self.visual_filter == "runner_up" else self.feature_size

    @property
    def text_size(self) -> int:
        """Width of t (`prompt_key`), which is folded where features have no room for a whole
        embedding; with 0, no textual edit can be taught."""
        return min(self.prompt_size, self.feature_size - self.prompt_rank - 2)

    def load_options(self, options: LoadOptions) -> LoadOptions:
        """Options of its backbone: with this generator's layers, where they name none."""
        if options.edit_layer < 0:
            options = options.with_changes(edit_layer=self.edit_layer)
        if self.prompt_size:
            options = options.with_changes(has_prompt_encoder=True)
        if self.visual_size:  # without pyramids the views of an image do not matter
            options = options.with_changes(has_image_views=self.has_image_views)
        return options

    def to_dict(self) -> dict[str, Any]:
        """Values by their names in `config.json`; of `LATER_FIELDS` those not at their defaults."""
        fields = type(self).model_fields
        return {
            STORED_NAMES.get(name, name): value
            for name, value in self
            if name not in LATER_FIELDS or value != fields[name].default
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Inverse of `to_dict`; raises ConfigError for unknown, missing or impossible values."""
        names = {stored: name for name, stored in STORED_NAMES.items()}
        return cls(**{names.get(name, name): value for name, value in values.items()})


IndexMode = Literal["auto", "off"]
"""Whether an index searches large banks (`key_index`): "auto" from 50 000 edits on, on a CPU."""
WeakEdits = Literal["refuse", "commit"]
"""What happens to an edit whose own question is not answered."""


class RefineSection(Settings):
    """Whether experts are verified and refined as they are written (see `refine`)."""

    mode: Literal["auto", "on", "off"] = "auto"
    """"auto" leaves experts as written where the generator sees images as in the paper
    (visual_source edit_layer): so do the authors' checkpoints."""
    max_steps: PositiveInt = 60
    """An edit that is not answered after so many steps is weak."""
    derived: bool = False
    """Whether experts of images also answer what follows from their fact: yes or no, in a sentence,
    the reverse, one step further (`forms`). An edit then takes two to three times as long."""

    def is_on(self, config: GeneratorConfig) -> bool:
        """Whether the experts of a generator are verified and refined."""
        return self.mode == "on" or (
            self.mode == "auto" and config.visual_source == "tower_pyramid"
        )

    def beside(self, config: GeneratorConfig, *, has_forms: bool) -> Self:
        """For a bank whose experts have forms, or none: `derived` as there, unless it is given."""
        if "derived" in self.model_fields_set or not (has_forms and self.is_on(config)):
            return self
        return self.with_changes(derived=True)


class VisualKeyRecipe(Settings):
    """How the visual key of a pyramid is fitted (see `visual_key_fit`)."""

    num_components: PositiveInt = 1024
    """Principal components of the pyramids that the discriminant is fitted on."""
    ridge: Positive = 0.3
    """Added to the within-entity covariance, as a share of its mean variance."""
    runner_up_offset: PositiveFraction = 0.4
    """Offset of a runner-up filter where a bank is too small to say it: 2 to 4 % of unedited
    photographs, drawings and charts pass at 10 edits of `validation`, fewer emblems, more pages."""
    unedited_fraction: OpenFraction = 0.18
    """Share of images of unedited entities that may pass the threshold of some expert."""
    answer_fraction: OpenFraction = 0.13
    """Share of them that may exceed `GeneratorConfig.visual_midpoint`."""
    other_image_fraction: OpenFraction = 0.08
    """Share of them that may exceed `GeneratorConfig.other_image_midpoint`."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        fractions = (self.unedited_fraction, self.answer_fraction, self.other_image_fraction)
        if sorted(fractions, reverse=True) != list(fractions):
            raise ValueError(
                "unedited_fraction, answer_fraction and other_image_fraction must not grow, got "
                f"{', '.join(map(str, fractions))}"
            )
        return self


class PromptKeyRecipe(Settings):
    """How the prompt key is fitted (see `prompt_key_fit`)."""

    num_components: PositiveInt = 1024
    """Principal components of the pyramids that the discriminant is fitted on."""
    ridge: Positive = 1.0
    """Added to the covariance within a question, as a share of its mean variance."""
    other_fraction: OpenFraction = 0.02
    """Share of other questions that may pass the gate of an edit."""
