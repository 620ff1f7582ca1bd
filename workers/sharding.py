"""One model over several processes: everything that uses DeepSpeed.

Under ZeRO-3 a parameter is whole only while the forward or backward pass of its module runs, and
every rank must run the same modules in the same order: a rank with nothing to do computes anyway,
and a rank that fails alone leaves its peers waiting until their timeout.
"""

import os
import warnings
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn

from liveedit_core.devices import moved
from liveedit_core.errors import WorkerLostError
from liveedit_core.training.micro_batches import MicroBatch
from liveedit_core.training.recipe import OptimizationSection
from liveedit_core.training.snapshot import MODEL, MOMENT
from liveedit_core.training.step import TrainingModule
from workers.gang import Rendezvous
from workers.sharding_config import ShardingSection
from workers.training_engine import MOMENT_KEYS, Named, cpu_copy


def is_on_gpu(sharding: ShardingSection) -> bool:
    """Whether the ranks compute on GPUs: where one is reserved for each, and torch finds it."""
    return sharding.gpus_per_shard > 0 and torch.cuda.is_available()


def join_gang(rank: int, rendezvous: Rendezvous, sharding: ShardingSection) -> None:
    """Make this process a rank, once in its life; raises WorkerLostError without its peers."""
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(sharding.shards),
        "LOCAL_RANK": "0",  # Ray shows each process its own GPU only
        "LOCAL_SIZE": "1",
        "MASTER_ADDR": rendezvous.host,
        "MASTER_PORT": str(rendezvous.port),
        "DS_ACCELERATOR": "cuda" if is_on_gpu(sharding) else "cpu",
    }
    import deepspeed
    import deepspeed.ops

    # Its C++ build takes minutes and serves a collective of inference kernels that we do not use.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # DeepSpeed calls collectives by names that torch is about to change.
    warnings.filterwarnings("ignore", message="`torch.distributed", category=FutureWarning)
    try:
        deepspeed.init_distributed(
            dist_backend="nccl" if is_on_gpu(sharding) else "gloo",
            auto_mpi_discovery=False,
            verbose=False,
            timeout=timedelta(seconds=sharding.timeout_s),
        )
    except RuntimeError as error:
        raise WorkerLostError(
            f"rank {rank} of {sharding.shards} did not meet its peers at {rendezvous.host}:"
            f"{rendezvous.port}: {error}"
        ) from error


def any_rank(flag: bool) -> bool:
    """Whether a flag is set in any process of the gang; all ranks must call it together."""
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    flags = torch.tensor(int(flag), device=device)
    torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX)
    return bool(flags)


class ShardedEngine:
    """This rank's share of a training phase, with the interface of `TorchEngine`.

    `module` is the whole model with equal weights on all ranks, and is sharded in place; `moments`
    are whole, too. `accumulation` counts the micro-batches of this rank in a step.
    """

    def __init__(
        self,
        module: TrainingModule,
        trained: Named,
        moments: dict[str, Tensor],
        optimization: OptimizationSection,
        accumulation: int,
        sharding: ShardingSection,
    ) -> None:
        import deepspeed

        self._module = module
        self._trained = trained
        self._stage = sharding.zero_stage
        self._device = torch.device("cuda" if is_on_gpu(sharding) else "cpu")
        parameters = [parameter for _, parameter in trained]
        config = deepspeed_configuration(sharding, sum(p.numel() for p in parameters)) | {
            "gradient_accumulation_steps": accumulation,
            "gradient_clipping": optimization.max_gradient_norm,
        }
        # A client optimizer: DeepSpeed's own ones compile kernels.
        optimizer = torch.optim.Adam(parameters)
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=module, model_parameters=parameters, optimizer=optimizer, config=config
        )
        if moments:
            self._restore(moments)

    def backward(self, batch: MicroBatch) -> dict[str, float]:
        total, figures = self._engine(moved(batch, self._device))
        self._engine.backward(total)
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()  # only counts the micro-batch
        return {"total": total.item()} | {name: part.item() for name, part in figures.items()}

    def step(self, learning_rate: float) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._engine.step()
        return float(self._engine.get_global_grad_norm())

    def tensors(self) -> dict[str, Tensor]:
        """Whole tensors on rank 0; all ranks must call it together."""
        import deepspeed
        from deepspeed.utils import safe_get_full_optimizer_state

        tensors: dict[str, Tensor] = {}
        generator = self._module.generator
        with deepspeed.zero.GatheredParameters(list(generator.parameters())):
            if not int(os.environ["RANK"]):
                weights = generator.state_dict().items()
                tensors |= {f"{MODEL}{name}": cpu_copy(value) for name, value in weights}
        states = list(self._states().values())
        if states and all(states):
            for name, parameter in self._trained:
                tensors[f"{MOMENT}{name}.step"] = cpu_copy(states[0]["step"])
                for key in MOMENT_KEYS[1:]:
                    whole = safe_get_full_optimizer_state(parameter, key)
                    tensors[f"{MOMENT}{name}.{key}"] = cpu_copy(whole)
        return tensors

    def _states(self) -> dict[Tensor, dict[str, Tensor]]:
        """State of Adam by flat partition of this rank."""
        flats = (
            self._optimizer.fp32_partitioned_groups_flat
            if self._stage == 3
            else self._optimizer.single_partition_of_fp32_groups
        )
        return {flat: self._optimizer.optimizer.state[flat] for flat in flats}

    def _restore(self, moments: dict[str, Tensor]) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        steps = moments[f"{self._trained[0][0]}.step"]
        for flat, state in self._states().items():
            state["step"] = steps.clone()
            for key in MOMENT_KEYS[1:]:
                state[key] = torch.zeros_like(flat)
        if self._stage < 3:
            self._optimizer._lazy_init_hp_params_optimizer_state()
        for name, parameter in self._trained:
            for key in MOMENT_KEYS[1:]:
                whole = moments[f"{name}.{key}"].to(self._device)
                if self._stage < 3:
                    safe_set_full_optimizer_state(parameter, whole, key)
                else:
                    safe_set_local_optimizer_state(parameter, _own_part(whole, parameter), key)

    def close(self) -> None:
        self._engine.destroy()


def shard_for_inference(module: nn.Module, sharding: ShardingSection) -> Any:
    """Shard the weights of a frozen module, equal on all ranks, in place.

    Needs ZeRO stage 3. Keep the returned engine alive; call the module itself.
    """
    import deepspeed

    engine, *_ = deepspeed.initialize(model=module, config=deepspeed_configuration(sharding, 1))
    return engine


def _own_part(whole: Tensor, parameter: nn.Parameter) -> Tensor:
    """This rank's part of a value, as ZeRO-3 cuts it: flat, padded, in equal parts."""
    size = parameter.ds_tensor.numel()  # type: ignore[attr-defined]
    padded = nn.functional.pad(whole.flatten(), (0, size * int(os.environ["WORLD_SIZE"])))
    return padded.narrow(0, size * int(os.environ["RANK"]), size)


def deepspeed_configuration(sharding: ShardingSection, num_trained: int) -> dict[str, Any]:
    """DeepSpeed's configuration, without the optimizer."""
    zero: dict[str, Any] = {
        "stage": sharding.zero_stage,
        # Buffers of DeepSpeed are as large as this, whatever there is to reduce.
        "reduce_bucket_size": max(1, min(num_trained, 50_000_000)),
    }
    if sharding.zero_stage == 3:
        # Small parameters are shared too; at the default a small model would not be sharded at all.
        zero["stage3_param_persistence_threshold"] = 0
    if sharding.has_cpu_offload:
        zero["offload_optimizer"] = {"device": "cpu"}
        if sharding.zero_stage == 3:
            zero["offload_param"] = {"device": "cpu"}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,  # never
    }
