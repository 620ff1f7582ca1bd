"""Where states come from: training, expert generation and evaluation ask a `StateSource`."""

from collections.abc import Callable, Sequence
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


class LazyBackboneStates:
    """Straight from a backbone that is loaded when it is asked for the first time.

    Travels to other processes without the backbone.

    Args:
        load: picklable; gives the backbone.
        backbone: the same one, where it is loaded already.
    """

    def __init__(self, load: Callable[[], Backbone], backbone: Backbone | None = None) -> None:
        self._load = load
        self._backbone = backbone

    def __reduce__(self) -> tuple[type["LazyBackboneStates"], tuple[Callable[[], Backbone]]]:
        """Pickle the way to load it."""
        return LazyBackboneStates, (self._load,)

    def states(self, inputs: Sequence[BackboneInput]) -> list[LayerStates]:
        """See `StateSource.states`."""
        if self._backbone is None:
            self._backbone = self._load()
        return self._backbone.encode(inputs)
