"""Training data whose states are all encoded beforehand, in memory: for tests."""

import random
from collections.abc import Callable, Sequence

from liveedit_core.backbones.protocol import Backbone, BackboneInput
from liveedit_core.schema import Case, ProbeKind
from liveedit_core.state_source import BackboneStates
from liveedit_core.states import LayerStates
from liveedit_core.training.data import TrainingData, draw_training_data


class RememberedStates:
    """States of some inputs, encoded at once, so that no batch changes a rounding."""

    def __init__(self, backbone: Backbone, inputs: Sequence[BackboneInput]) -> None:
        distinct = list(dict.fromkeys(inputs))
        self._states = dict(zip(distinct, backbone.encode(distinct), strict=True))

    def states(self, inputs: Sequence[BackboneInput]) -> list[LayerStates]:
        """See `StateSource.states`."""
        return [self._states[item] for item in inputs]


def encode_training_data(
    backbone: Backbone,
    cases: Sequence[Case],
    *,
    num_pairs: int,
    localities: Sequence[ProbeKind] = (),
    random_target: Callable[[random.Random], str],
    rng: random.Random,
) -> TrainingData:
    """`draw_training_data`, with `RememberedStates` as the source."""
    data = draw_training_data(
        cases,
        BackboneStates(backbone),
        num_pairs=num_pairs,
        localities=localities,
        random_target=random_target,
        rng=rng,
    )
    data.source = RememberedStates(backbone, data.inputs)
    return data
