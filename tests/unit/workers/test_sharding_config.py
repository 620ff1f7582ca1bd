"""What a sharding section asks of Ray and of DeepSpeed."""

from workers.sharding import deepspeed_configuration
from workers.sharding_config import ShardingSection


def test_only_one_process_on_the_cpu_needs_no_ray() -> None:
    assert not ShardingSection().needs_processes
    assert ShardingSection().needed_cpus == 0
    assert ShardingSection(gpus_per_shard=1).needs_processes
    assert ShardingSection(shards=3, cpus_per_shard=0.5).needed_cpus == 1.5


def test_offload_moves_what_the_stage_shares() -> None:
    def zero(stage: int, *, has_offload: bool) -> dict[str, object]:
        section = ShardingSection(
            shards=2, zero_stage=stage, gpus_per_shard=1, has_cpu_offload=has_offload
        )
        made: dict[str, object] = deepspeed_configuration(section, 10)["zero_optimization"]
        return made

    cpu = {"device": "cpu"}
    assert "offload_optimizer" not in zero(3, has_offload=False)
    assert zero(2, has_offload=True)["offload_optimizer"] == cpu
    assert "offload_param" not in zero(2, has_offload=True)
    assert zero(3, has_offload=True)["offload_param"] == cpu


def test_small_parameters_are_shared_too() -> None:
    zero = deepspeed_configuration(ShardingSection(shards=2), 10)["zero_optimization"]
    assert zero["stage3_param_persistence_threshold"] == 0
    assert zero["reduce_bucket_size"] == 10
