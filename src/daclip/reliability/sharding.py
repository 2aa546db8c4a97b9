"""Training with weights, gradients and moments spread over ranks: FSDP2 (`fully_shard`)."""

from datetime import timedelta
from typing import Any

import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from daclip.errors import DaclipError
from daclip.optimization import StageModule

__all__ = ["FullyShard", "shard", "whole_state"]


def shard(module: nn.Module, mesh: DeviceMesh, policy: MixedPrecisionPolicy) -> None:
    """Spread a network's weights over the ranks of a mesh; each block is gathered just while it computes.

    Args:
        module: Its blocks are the entries of the module lists in it that compute by themselves; what is left is
            gathered as a whole.
        mesh: One dimension.
        policy: Arithmetic of the gathered weights.
    """
    for weight in module.parameters():
        weight.data = weight.data.contiguous()  # FSDP2 takes no channels-last weights
    for container in list(module.modules()):
        if isinstance(container, nn.ModuleList):
            for block in container:
                if not isinstance(block, (nn.ModuleList, nn.ModuleDict)) and any(True for _ in block.parameters()):
                    fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(module, mesh=mesh, mp_policy=policy)


def whole_state(module: nn.Module) -> dict[str, Tensor]:
    """The state dict with sharded weights put together; all ranks must call it."""
    state = module.state_dict()
    return {name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in state.items()}


class FullyShard(ModelParallelStrategy):
    """FSDP2 through Lightning for both stages; checkpoints hold the whole state in one file, as without sharding.

    Args:
        bf16: Gather weights and compute in bfloat16; the sharded originals stay float32.
        timeout: Seconds after which a rank that waits for the others gives up.

    Raises:
        DaclipError: A weight average is on, which cannot follow sharded weights.
    """

    def __init__(self, bf16: bool, timeout: float):
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False, timeout=timedelta(seconds=timeout))
        arithmetic = torch.bfloat16 if bf16 else None
        self.policy = MixedPrecisionPolicy(param_dtype=arithmetic, reduce_dtype=torch.float32)

    def setup_environment(self) -> None:
        """Make the mesh, and say how the stage's networks are spread over it."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()
        module: Any = self.lightning_module
        assert isinstance(module, StageModule)
        trainer: Any = module.trainer
        averages = [callback for callback in trainer.callbacks if isinstance(callback, WeightAveraging)]
        if averages:
            raise DaclipError(
                "a weight average cannot follow sharded weights; leave one of them out: ~callbacks.ema or trainer=ddp"
            )
        mesh = self.device_mesh["data_parallel"]

        def configure_model() -> None:
            if module.replicated_group is not None:
                return  # asked again, by the held-out pass behind training
            for network in module.networks():
                shard(network, mesh, self.policy)
            module.replicated_group = mesh.get_group()

        # Lightning asks the module for this; only this strategy knows how.
        module.configure_model = configure_model  # type: ignore[method-assign]
