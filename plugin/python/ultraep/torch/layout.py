"""What one expert consists of: its tensors in a fixed order, the same for all experts of a layer."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ultraep.errors import InvalidArgument


@dataclass(frozen=True)
class TensorLayout:
    name: str  #: as in the expert's named_parameters or named_buffers
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class ExpertLayout:
    """tensors: all of an expert's, each one shard: trainable parameters first, then frozen ones and
    buffers. trainable: the first of these, each one gradient part."""

    tensors: tuple[TensorLayout, ...]
    trainable: tuple[TensorLayout, ...]

    @property
    def shard_bytes(self) -> tuple[int, ...]:
        return tuple(t.elements * t.dtype.itemsize for t in self.tensors)

    @property
    def gradient_bytes(self) -> tuple[int, ...]:
        """In a slot, float32."""
        return tuple(t.elements * 4 for t in self.trainable)


def layout_of(expert: nn.Module) -> ExpertLayout:
    """Reads an expert's layout. Refuses dtypes whose gradients float32 cannot hold."""
    parameters = dict(expert.named_parameters())
    trainable = {n: p for n, p in parameters.items() if p.requires_grad}
    frozen = {n: p for n, p in parameters.items() if n not in trainable}
    everything = {**trainable, **frozen, **dict(expert.named_buffers())}
    everything = {n: t for n, t in everything.items() if t.numel()}  # nothing to send of the others
    for name, t in trainable.items():
        if t.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise InvalidArgument(f"expert parameter {name} is {t.dtype}: replica gradients are "
                                  "float32, so parameters must be float32, bfloat16 or float16")
    layouts = {n: TensorLayout(n, tuple(t.shape), t.dtype) for n, t in everything.items()}
    return ExpertLayout(tuple(layouts.values()),
                        tuple(layouts[n] for n in trainable if n in layouts))


def expert_sizes(expert: nn.Module) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(shard_bytes, gradient_bytes) that a Balancer of such experts needs."""
    layout = layout_of(expert)
    return layout.shard_bytes, layout.gradient_bytes


def tensors_of(expert: nn.Module, layout: ExpertLayout) -> list[Tensor]:
    """The expert's tensors in the layout's order."""
    named = {**dict(expert.named_parameters()), **dict(expert.named_buffers())}
    return [named[t.name] for t in layout.tensors]


def kind_of(expert: nn.Module) -> list[str]:
    """The types of all its modules: equal for experts that compute alike."""
    return [f"{name}: {type(m).__module__}.{type(m).__qualname__}"
            for name, m in expert.named_modules()]


def check_kept(tensors: Sequence[Tensor], layout: ExpertLayout, where: str) -> None:
    """Raises when an expert is no longer what its group was joined with."""
    learns = len(layout.trainable)
    for number, (t, known) in enumerate(zip(tensors, layout.tensors)):
        if t.dtype != known.dtype or t.shape != known.shape or t.device.type != "cpu" or \
                not t.is_contiguous():
            raise InvalidArgument(f"{where}: expert tensor {known.name} is now {t.dtype} "
                                  f"{list(t.shape)} on {t.device}, strides {t.stride()}; the "
                                  f"balancer was made for contiguous {known.dtype} "
                                  f"{list(known.shape)} on the CPU: make it after such changes")
        if t.requires_grad and number >= learns:
            raise InvalidArgument(f"{where}: {known.name} requires a gradient now, it did not when "
                                  "the balancer was made: replicas' gradients would be lost")


def check_alike(experts: Sequence[nn.Module], layout: ExpertLayout, rank: int) -> None:
    """Raises unless every expert has this layout and lies contiguously in CPU memory."""
    for number, expert in enumerate(experts):
        other = layout_of(expert)
        if kind_of(expert) != kind_of(experts[0]):
            raise InvalidArgument(f"rank {rank}: local expert {number} is another kind of module "
                                  "than local expert 0, whose code replicas run with")
        if other != layout:
            differing = next((pair for pair in zip(layout.tensors, other.tensors)
                              if pair[0] != pair[1]), (layout.tensors, other.tensors))
            raise InvalidArgument(f"rank {rank}: local expert {number} differs from local expert 0: "
                                  f"{differing[1]}, must be {differing[0]}")
        for t, known in zip(tensors_of(expert, layout), layout.tensors):
            if t.device.type != "cpu" or not t.is_contiguous():
                raise InvalidArgument(
                    f"rank {rank}: {known.name} of local expert {number} is on {t.device}, "
                    f"strides {t.stride()}: weights are streamed from contiguous CPU tensors")
