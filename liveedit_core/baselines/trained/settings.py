"""Settings of the trained editors: how they are trained, and how they edit. Imports no torch, so
recipes may use these as their sections."""

from typing import Annotated, Literal, get_args

from pydantic import Field

from liveedit_core.baselines.settings import InContextConfig
from liveedit_core.settings import (
    Fraction,
    NonNegative,
    Positive,
    PositiveInt,
    Settings,
)

RivalName = Literal["mend", "serac", "recipe", "lte"]
RIVALS: tuple[RivalName, ...] = get_args(RivalName)
"""Editors with a part that is trained before the first edit, in the order of the table."""


class MendTraining(Settings):
    """MEND: which matrices are edited, and the networks that transform their gradients."""

    num_layers: PositiveInt = 3
    """Last decoder layers whose feed-forward matrices are edited."""
    rank: PositiveInt = 128
    """Of the networks' low-rank layers; 1920 in EasyEdit, for models with 40 times the weights."""
    initial_rate: Positive = 1e-4
    """First learned rate of an edit (edit_lr)."""
    edit_weight: NonNegative = 0.1
    """Weight of the edit loss beside the locality loss (c_edit)."""


class SeracTraining(Settings):
    """SERAC: the scope classifier and the counterfactual model."""

    embedding_size: PositiveInt = 128
    """Of the space in which the classifier measures distances."""
    rank: PositiveInt = 16
    """Of the adapters by which the counterfactual model differs from the layers after l_e."""


class RecipeTraining(Settings):
    """RECIPE: the knowledge encoder and its continuous prompts."""

    num_prompt_tokens: PositiveInt = 3
    """Continuous tokens of an edit."""
    representation_size: PositiveInt = 192
    """Of knowledge and queries; 2048 in the paper."""
    contrast_weight: NonNegative = 1.0
    """Of the contrastive loss beside the edit losses."""


class LteTraining(Settings):
    """LTE: the adapters that the alignment phase trains, and what it trains them on."""

    rank: PositiveInt = 16
    """Of the adapters; the paper tunes all weights, or adapters of this kind (LTE-LoRA)."""
    most_facts: PositiveInt = 3
    """A training prompt is told one to this many facts."""


class TrainedConfig(Settings):
    """An editor with a part that was trained before."""

    checkpoint: str = "builtin"
    """Folder of the trained part, or "builtin"."""


class MendConfig(TrainedConfig):
    """MEND: how an edit is applied."""

    update_scale: Positive = 1.0
    """Factor of the learned rates."""


class SeracConfig(TrainedConfig):
    """SERAC: when the counterfactual model answers."""

    least_scope: Fraction = 0.5
    """Probability from which a question is in the scope of an edit."""


class RecipeConfig(TrainedConfig):
    """RECIPE: when an edit's prompt comes before a question."""

    sentinel_margin: float = 0.0
    """By how much the best edit must be more similar than the knowledge sentinel."""


class LteConfig(InContextConfig):
    """LTE: which facts are told, as IKE finds them."""

    checkpoint: str = "builtin"
    """Folder of the trained part, or "builtin"."""
    num_facts: PositiveInt = 3
    """k: facts before a question, as in the paper."""
    least_similarity: Annotated[float, Field(ge=-1, le=1)] = 0.0
    """No fact is told where the most similar one is less similar than this; the paper always tells
    the three best."""
