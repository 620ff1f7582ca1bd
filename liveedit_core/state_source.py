"""Where states come from: training, expert generation and evaluation ask a `StateSource`."""

from collections.abc import Sequence
from typing import Protocol

from liveedit_core.backbones.protocol import Backbone, BackboneInput
from liveedit_core.states import LayerStates


class StateSource(Protocol):
    """Gives the states of inputs, computed or remembered."""

    def states(self, inputs: Sequence[BackboneInput]) -> list[LayerStates]:
        """Rows at l_e and all that belongs to them; float32 on the CPU, in the order of inputs.

        Args:
            inputs: any number, repetitions included.

        Raises:
            InputError: an input cannot be encoded.
        """
        ...


class BackboneStates:
    """Straight from the backbone: everything is computed whenever it is asked for.

    Args:
        backbone: frozen VLM.
    """

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone

    def states(self, inputs: Sequence[BackboneInput]) -> list[LayerStates]:
        """See `StateSource.states`."""
        return self._backbone.encode(inputs)
