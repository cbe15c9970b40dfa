"""Tickets: how operators, which know tensors only, name a step and its balancer."""

import ctypes
import itertools
from collections.abc import Sequence
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from ultraep.torch.balancer import Balancer
from ultraep.client import Plan
from ultraep.errors import InvalidArgument
from ultraep.torch.layout import ExpertLayout, TensorLayout
from ultraep.torch.step import Step


class Held:
    """What a ticket names: the plan, and the step while its weights or gradients move."""

    def __init__(self, balancer: Balancer, plan: Plan) -> None:
        self.balancer = balancer
        self.plan = plan
        self.number = next(_numbers)
        self._step: Step | None = None
        self._places: list[int] = []

    @property
    def rank(self) -> int:
        return self.balancer.config.rank

    def begin(self, weights: Sequence[Tensor]) -> Step:
        """Streams: the forward, or the restore that a reduction needs."""
        layout = _layout_of(weights, self.balancer)
        mains = [[w[e] for w in weights] for e in range(self.balancer.experts_per_rank)]
        self._step = Step(self.balancer, layout, self.plan, mains, any_order=False)
        self._step.stream()
        self._places = [w.data_ptr() for w in weights]
        return self._step

    def step(self, piece: str, before: str) -> Step:
        if self._step is None:
            raise InvalidArgument(f"rank {self.rank}: {piece} of step {self.plan.info.sequence} "
                                  f"without its {before}")
        return self._step

    def check_places(self, weights: Sequence[Tensor]) -> None:
        """Only what await_weights was given is surely there until then: a compiler that made a copy
        for stream alone may have used its memory for something else."""
        if self.plan.info.replicas and [w.data_ptr() for w in weights] != self._places:
            raise InvalidArgument(
                f"rank {self.rank}: the weights of await_weights are others, or copies of those "
                "that stream got: both must get the same contiguous tensors")

    def end(self) -> None:
        self._step = None


class _Memory(ctypes.c_int64):
    """A ticket's memory. The tensor's storage holds it, also where only C++ knows the tensor; so
    the step lives as long as anybody can still use the ticket."""

    held: Held


_numbers = itertools.count(1)
_all_held: WeakValueDictionary[int, Held] = WeakValueDictionary()
_balancers: WeakValueDictionary[int, Balancer] = WeakValueDictionary()


def register(balancer: Balancer) -> int:
    """The key by which operators know the balancer, the same whenever asked. Does not keep it
    alive: its owner does, and closes it."""
    for key, known in _balancers.items():
        if known is balancer:
            return key
    key = next(_numbers)
    _balancers[key] = balancer
    return key


def live_steps() -> int:
    """Steps that some ticket still holds; 0 when all graphs are gone."""
    return len(_all_held)


def balancer_of(key: int) -> Balancer:
    balancer = _balancers.get(key)
    if balancer is None:
        raise InvalidArgument(f"no balancer has the key {key}: it is gone, or was never registered "
                              "in this process; `register` does not keep it alive")
    return balancer


def ticket_of(held: Held) -> Tensor:
    memory = _Memory(held.number)
    memory.held = held
    _all_held[held.number] = held
    return torch.frombuffer(memory, dtype=torch.int64)


def held_by(ticket: Tensor) -> Held:
    held = _all_held.get(int(ticket))
    if held is None:
        raise InvalidArgument(f"ticket {int(ticket)} names no step: its memory is gone; tickets "
                              "must not be copied, offloaded or kept as numbers")
    return held


def _layout_of(weights: Sequence[Tensor], balancer: Balancer) -> ExpertLayout:
    config = balancer.config
    for number, w in enumerate(weights):
        if w.device.type != "cpu" or not w.is_contiguous() or w.dim() == 0 or \
                len(w) != balancer.experts_per_rank:
            raise InvalidArgument(
                f"rank {config.rank}: weights[{number}] is {list(w.shape)} on {w.device}, strides "
                f"{list(w.stride())}: must be contiguous [{balancer.experts_per_rank}, ...] on the "
                "CPU")
    tensors = tuple(TensorLayout(f"weights[{number}]", tuple(w.shape[1:]), w.dtype)
                    for number, w in enumerate(weights))
    layout = ExpertLayout(tensors, tensors[:len(config.gradient_bytes)])
    if layout.shard_bytes != tuple(config.shard_bytes):
        raise InvalidArgument(f"rank {config.rank}: the weights' shard_bytes are "
                              f"{layout.shard_bytes}, the balancer's {tuple(config.shard_bytes)}")
    return layout
