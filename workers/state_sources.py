"""Where a worker reads states and unedited answers: named by the driver, opened where it runs."""

from dataclasses import dataclass

from liveedit_core.backbones.protocol import Backbone
from liveedit_core.evaluation.unedited_answers import AnswerCache
from liveedit_core.method.config import StateDtype
from liveedit_core.state_identity import StateIdentity
from liveedit_core.state_source import BackboneStates, StateSource


@dataclass(frozen=True, kw_only=True)
class CacheNames:
    """The state cache by what a recipe says about it; picklable and small."""

    store_uri: str
    dtype: StateDtype = "float16"
    max_bytes: int = 0


def open_states(
    backbone: Backbone, cache: CacheNames | None, *, has_large_calls: bool = False
) -> StateSource:
    """Where a worker reads states: from the cache, which it fills, or straight from the backbone.

    Args:
        backbone: Computes what is not in the cache.
        cache: None for no cache.
        has_large_calls: What one call computes is worth a commit, so none is lost with the worker.
    """
    computed = BackboneStates(backbone)
    if cache is None:
        return computed
    # Lance is loaded only where there is a cache.
    from infra.cache.cached_states import WRITE_AT_ONCE, CachedStates
    from infra.cache.state_cache import StateCache
    from infra.storage.object_store import ObjectStore

    store = ObjectStore(cache.store_uri)
    identity = StateIdentity.of(backbone, cache.dtype)
    opened = StateCache(store, identity, max_bytes=cache.max_bytes)
    return CachedStates(
        opened,
        computed,
        is_filling=True,
        write_at_once=1 if has_large_calls else WRITE_AT_ONCE,
    )


def open_answers(
    backbone: Backbone, cache: CacheNames | None, answers_uri: str
) -> AnswerCache | None:
    """What a worker remembers of the unedited backbone's answers.

    Args:
        backbone: That answers.
        cache: Its states are what answers are computed from; None for exact ones.
        answers_uri: Root URI of the store that holds them; "" remembers nothing.
    """
    if not answers_uri:
        return None
    from infra.cache.answer_table import AnswerTable
    from infra.storage.object_store import ObjectStore

    identity = StateIdentity.of(backbone, cache.dtype if cache else "float32")
    return AnswerTable(ObjectStore(answers_uri), identity)
