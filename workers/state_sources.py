"""Where a worker reads states and unedited answers: named by the driver, opened in the worker."""

from dataclasses import dataclass

from liveedit_core.backbones.protocol import Backbone
from liveedit_core.evaluation.unedited_answers import AnswerCache
from liveedit_core.method.config import StateDtype
from liveedit_core.state_source import BackboneStates, StateIdentity, StateSource


@dataclass(frozen=True, kw_only=True)
class CacheNames:
    """The state cache of a recipe; picklable and small."""

    store_uri: str
    dtype: StateDtype = "float16"
    max_bytes: int = 0


def open_states(
    backbone: Backbone, cache: CacheNames | None, *, has_large_calls: bool = False
) -> StateSource:
    """States from the cache, which the worker fills, or directly from the backbone.

    Args:
        backbone: Computes what is not in the cache.
        cache: None for no cache.
        has_large_calls: Commit after every call, so that a lost worker loses nothing.
    """
    computed = BackboneStates(backbone)
    if cache is None:
        return computed
    # Import Lance only if there is a cache.
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
    """The stored answers of the unedited backbone.

    Args:
        backbone: The one that answers.
        cache: Whose states the answers are computed from; None for exact states.
        answers_uri: Root URI of the store that holds them; "" stores none.
    """
    if not answers_uri:
        return None
    from infra.cache.answer_table import AnswerTable
    from infra.storage.object_store import ObjectStore

    identity = StateIdentity.of(backbone, cache.dtype if cache else "float32")
    return AnswerTable(ObjectStore(answers_uri), identity)
