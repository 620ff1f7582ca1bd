"""One generator over several processes: a gang of shards, and the actor that makes it act as one.

Owns: each shard a part of the weights (DeepSpeed ZeRO-3) of backbone and generator; the layers
    after l_e are needed only to refine. `GeneratorGang` owns the shards.
Receives: micro-batches of numbered requests. All shards get each of them and take equal parts,
    padded with repetitions, as all must run the same number of forward passes.
Returns: what `GeneratorWorker` returns.
When a shard dies: the gang is restarted and the micro-batch sent again. When the gang's actor dies:
    its shards die with it, and Ray restarts it.
"""

from collections.abc import Sequence
from typing import Any

import ray
from torch import nn

from infra.requests.request_reader import RequestReader
from liveedit_core.backbones.vision_language import VisionLanguageBackbone, as_vision_language
from liveedit_core.inputs.limits import InputLimits
from liveedit_core.method.editor import Editor
from liveedit_core.method.expert import Expert
from liveedit_core.schema import EditRequest
from workers.actor_pool import Call
from workers.failures import converted_failures
from workers.gang import Gang, Rendezvous, own_rendezvous
from workers.generator_worker import GeneratorWorker, finite_or_error, read_batch
from workers.messages import GeneratedBatch, GeneratorFacts, NumberedRequest
from workers.models import ModelSource
from workers.sharding_config import ShardingSection


class ExpertWriter(nn.Module):
    """Everything that computes an expert, as one module that can be sharded."""

    def __init__(self, editor: Editor, backbone: VisionLanguageBackbone) -> None:
        super().__init__()
        self.editor = editor
        self.prefix = nn.ModuleList(backbone.shared_modules(has_suffix=editor.refiner is not None))
        self.generator = editor.generator

    def forward(self, requests: Sequence[EditRequest]) -> list[Expert]:
        """Experts, not checked for NaN."""
        return self.editor.write_experts(requests, check_finite=False)


class GeneratorShard(GeneratorWorker):
    """One rank of a gang."""

    @converted_failures
    def __init__(
        self,
        models: ModelSource,
        limits: InputLimits,
        sharding: ShardingSection,
        *,
        rank: int,
        **options: Any,
    ) -> None:
        """`options` are those of `GeneratorWorker`."""
        super().__init__(models, limits, num_threads=sharding.threads_per_shard, **options)
        self._sharding = sharding
        self._rank = rank

    rendezvous = staticmethod(own_rendezvous)

    @converted_failures
    def join(self, rendezvous: Rendezvous) -> None:
        """Connect to the other ranks, and keep only this rank's part of the weights."""
        from workers.sharding import any_rank, join_gang, shard_for_inference

        backbone = as_vision_language(self._backbone)
        join_gang(self._rank, rendezvous, self._sharding)
        if self._editor.refiner is not None:
            self._editor.refiner.is_any = any_rank
        self._writer = ExpertWriter(self._editor, backbone)
        self._most_at_once = backbone.batch_size
        self._engine = shard_for_inference(self._writer, self._sharding)

    def _outcomes(
        self, items: Sequence[NumberedRequest]
    ) -> list[tuple[NumberedRequest, Expert | Exception]]:
        """This shard's part of the accepted requests."""
        done: list[tuple[NumberedRequest, Expert | Exception]] = []
        shards, most = self._sharding.shards, self._sharding.shards * self._most_at_once
        for start in range(0, len(items), most):
            together = items[start : start + most]
            own = together[self._rank :: shards]
            num_missing = -(-len(together) // shards) - len(own)
            experts = self._writer([item.request for item in [*own, *[together[0]] * num_missing]])
            outcomes = [finite_or_error(expert) for expert in experts]
            done += zip(own, outcomes, strict=False)  # without the padding
        return done


class GeneratorGang:
    """Shards that act as one `GeneratorWorker`."""

    @converted_failures
    def __init__(
        self,
        models: ModelSource,
        limits: InputLimits,
        sharding: ShardingSection,
        *,
        node_resource: str = "",
        **options_of_shards: Any,
    ) -> None:
        """`options_of_shards` are those of `GeneratorWorker`."""

        def create(options: dict[str, Any], rank: int) -> Any:
            shard = ray.remote(GeneratorShard).options(**options)
            return shard.remote(models, limits, sharding, rank=rank, **options_of_shards)

        self._gang = Gang("generator gang", create, sharding, node_resource=node_resource)

    def describe(self) -> GeneratorFacts:
        """The models of the gang."""
        facts: GeneratorFacts = self._ask(lambda shard: shard.describe.remote())[0]
        return facts

    def generate_logged(
        self, sequences: Sequence[int], requests: RequestReader
    ) -> tuple[int, GeneratedBatch]:
        """See `GeneratorWorker.generate_logged`."""
        items = read_batch(requests, sequences)
        batch = merged(self._ask(lambda shard: shard.generate.remote(items)))
        return batch.num_bytes, batch

    def _ask(self, call: Call) -> list[Any]:
        return self._gang.retrying(lambda is_new: self._gang.ask(call))


def merged(parts: Sequence[GeneratedBatch]) -> GeneratedBatch:
    """One answer of all shards, in the order of the requests."""
    # Every shard has made the same refusals.
    refused = {refusal.edit_id: refusal for part in parts for refusal in part.rejected}
    experts = sorted((e for part in parts for e in part.experts), key=lambda e: e.sequence)
    return GeneratedBatch(
        experts=tuple(experts),
        rejected=tuple(refused.values()),
        last_sequence=parts[0].last_sequence,
        duration_s=max(part.duration_s for part in parts),
        refine_s=max(part.refine_s for part in parts),
    )


GeneratorGangActor = ray.remote(GeneratorGang)
