"""Encodes inputs with a pool of actors, slowly, as a process that a test kills.

python -m tests.integration.state_job STORE
"""

import sys
import time
from collections.abc import Sequence

from infra.cache.state_cache import StateCache
from infra.storage.object_store import ObjectStore
from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.state_source import StateIdentity
from liveedit_core.states import LayerStates
from pipelines.job.ray_session import open_session
from pipelines.job.sections import RaySection, StatesSection
from pipelines.job.state_cache import fill_cache, start_encoders
from tests.unit.tiny_inputs import PROMPT, image
from tests.unit.tiny_models import TinyBackbone

IDENTITY = StateIdentity.of(TinyBackbone(), "float32")
INPUTS = [
    BackboneInput(prompt=PROMPT, target="an entity", image_bytes=image(number))
    for number in range(40)
]
CHUNK = 4
SESSION = RaySection(object_store_memory_bytes=100 * 1024 * 1024)


class SlowBackbone(TinyBackbone):
    """Takes its time."""

    def encode(self, inputs: Sequence[BackboneInput]) -> list[LayerStates]:
        time.sleep(0.5)
        return super().encode(inputs)


def main(root: str) -> None:
    """Fill the cache of a store, and say how far it is."""
    with open_session(SESSION, needed_cpus=2):
        pool = start_encoders(
            SlowBackbone, StatesSection(num_workers=2, max_in_flight=3, num_cpus=0.5)
        )
        cache = StateCache(ObjectStore(root), IDENTITY)
        fill_cache(
            cache,
            pool,
            INPUTS,
            lambda done, total: print(f"committed {done} of {total}", flush=True),
            chunk_size=CHUNK,
        )
        pool.close()


if __name__ == "__main__":
    main(sys.argv[1])
