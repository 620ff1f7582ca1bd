"""The state encoder: inputs in, rows of the state cache out; images in, their pyramids out.

Owns: one frozen backbone, loaded when it starts; no other state but the images it saw last.
Receives: chunks of inputs that the cache does not hold, as places in a store, and the handle to
    write with.
Returns: what it wrote, invisible until the driver commits it.
When it dies: nothing is lost. The pool restarts the process and sends the unfinished chunks again;
    files of the dead process are never committed, and a second row of a state would be skipped.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import ray
import torch
from torch import Tensor

from infra.cache.state_rows import StateWriter, WrittenStates
from liveedit_core.backbones.protocol import Backbone, BackboneInput
from liveedit_core.method.config import StateDtype
from liveedit_core.state_source import StateIdentity
from workers.failures import converted_failures
from workers.models import limit_threads


class StateEncoder:
    """Encodes inputs and writes their states to the store."""

    @converted_failures
    def __init__(self, load_backbone: Callable[[], Backbone], *, num_threads: int = 0) -> None:
        """Load the model; see `limit_threads`."""
        limit_threads(num_threads)
        self._backbone = load_backbone()

    def describe(self, dtype: StateDtype) -> StateIdentity:
        """What the states of this worker have in common."""
        return StateIdentity.of(self._backbone, dtype)

    @converted_failures
    def write(self, chunk: Sequence[BackboneInput], writer: StateWriter) -> WrittenStates:
        """Encode a chunk, in padded batches sorted by length, and write its states."""
        chunk = list(chunk)  # read here, if it is a reference
        return writer.write(chunk, self._backbone.encode(chunk))

    def stream(
        self, chunks: Iterable[Sequence[BackboneInput]], writer: StateWriter
    ) -> Iterator[WrittenStates]:
        """The interface of `WorkerPool`, in this process."""
        return (self.write(chunk, writer) for chunk in chunks)

    @converted_failures
    def pyramids(self, images: Sequence[bytes]) -> Tensor:
        """Pyramids of whole images, float16 [B, E] on the CPU; only of a backbone that has them."""
        backbone: Any = self._backbone
        tower = backbone.image_tower
        found = tower.features(images, backbone.batch_size)
        rows = [found[image].pyramid_E[: tower.pyramid_size] for image in images]
        return torch.stack(rows).half().cpu()


StateEncoderActor = ray.remote(StateEncoder)
