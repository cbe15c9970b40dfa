"""Dispatch and combine: rows to the ranks of their physical experts and back, by all-to-all.

Every function is a collective of the group in its forward, and again in its backward. The order of
additions does not depend on where rows were computed: a token's expert outputs, and its gradients,
are added in the order of its top-k.
"""

import time
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from ultraep.client import Phase
from ultraep.errors import Failed
from ultraep.torch.balancer import Balancer


class Ranks:
    """The ranks that exchange rows: a process group, and the balancer that knows who is gone."""

    def __init__(self, group: Any, balancer: Balancer | None) -> None:
        self.group = group
        self.rank, self.count = dist.get_rank(group), dist.get_world_size(group)
        self._balancer = balancer

    def all_to_all(self, output: Tensor, input: Tensor, received: list[int] | None = None,
                   sent: list[int] | None = None) -> None:
        """dist.all_to_all_single; its failure is ours, with what is known of the ranks."""
        try:
            dist.all_to_all_single(output, input, received, sent, group=self.group)
        except RuntimeError as e:
            raise Failed(f"rank {self.rank}: the EP group's all-to-all failed: {e}"
                         f"{self._what_is_known()}") from e

    def _what_is_known(self) -> str:
        if self._balancer is None:
            return ""
        for _ in range(20):  # the daemon needs a moment to notice a death and to name the rank
            state = self._balancer.state()
            if state.phase is not Phase.OPEN and "rank " in state.text:
                break
            time.sleep(0.05)
        return f" (the daemon: {state.text})"


@dataclass(frozen=True)
class Routing:
    """Where this rank's rows go and where those it computes come from.

    A row is one (token, top-k) pair. order: int64 [rows], the pairs in the order they are sent: by
    physical expert. sent, received: rows per rank. by_instance: int64 [received rows], which received
    row stands where when they are sorted by local physical expert, then source. counts: rows of each
    local physical expert.
    """

    ranks: Ranks
    tokens: int
    top_k: int
    order: Tensor
    sent: list[int]
    received: list[int]
    by_instance: Tensor
    counts: list[int]


def exchange_counts(physical: Tensor, per_rank: int, group: Ranks) -> Routing:
    """physical: int [tokens, top_k], rank * per_rank + local, or -1: goes nowhere. Collective."""
    ranks = group.count
    tokens, top_k = physical.shape
    flat = physical.reshape(-1)
    order = torch.argsort(flat, stable=True)
    counts = torch.bincount((flat + 1).to(torch.int64), minlength=ranks * per_rank + 1)
    order = order[int(counts[0]):]  # -1 sorts first
    sent = counts[1:].contiguous()
    received = torch.empty_like(sent)
    group.all_to_all(received, sent)
    # Received rows stand by source, then local expert.
    local = torch.arange(per_rank).repeat(ranks).repeat_interleave(received)
    table = received.view(ranks, per_rank)
    return Routing(group, tokens, top_k, order,
                   sent.view(ranks, per_rank).sum(1).tolist(), table.sum(1).tolist(),
                   torch.argsort(local, stable=True), table.sum(0).tolist())


def dispatch(x: Tensor, routing: Routing) -> Tensor:
    """x: [tokens, hidden]. Returns this rank's rows by local physical expert: [rows, hidden]."""
    rows = _Gather.apply(x, routing)
    received = _AllToAll.apply(rows, routing.received, routing.sent, routing.ranks)
    result: Tensor = _Permute.apply(received, routing.by_instance, False)
    return result


def combine(rows: Tensor, routing: Routing) -> Tensor:
    """The inverse of dispatch: rows [rows, hidden] by local physical expert become
    [tokens, top_k, hidden] of this rank's tokens; pairs that went nowhere are zero."""
    received = _Permute.apply(rows, routing.by_instance, True)
    back = _AllToAll.apply(received, routing.sent, routing.received, routing.ranks)
    result: Tensor = _Scatter.apply(back, routing)
    return result


class _Gather(torch.autograd.Function):
    """The rows to send. Its backward adds a token's gradients in the order of its top-k."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, routing: Routing) -> Tensor:
        ctx.routing = routing
        return x.index_select(0, routing.order // routing.top_k)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, rows: Tensor) -> Any:
        return _spread(rows, ctx.routing).sum(1), None


class _Scatter(torch.autograd.Function):
    """Rows that came back, at their tokens."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, routing: Routing) -> Tensor:
        ctx.routing = routing
        return _spread(rows, routing)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        return grad.reshape(-1, grad.shape[-1]).index_select(0, ctx.routing.order), None


def _spread(rows: Tensor, routing: Routing) -> Tensor:
    """[sent rows, hidden] -> [tokens, top_k, hidden], zero where nothing was sent."""
    pairs = routing.tokens * routing.top_k
    if pairs == len(routing.order):
        spread = _permute(rows, routing.order, True)
    else:
        spread = rows.new_zeros((pairs, rows.shape[1])).index_copy_(0, routing.order, rows)
    return spread.view(routing.tokens, routing.top_k, rows.shape[1])


class _Permute(torch.autograd.Function):
    """rows[index], or the inverse of it. Copies in both directions, adds nothing."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, inverse: bool) -> Tensor:
        ctx.index, ctx.inverse = index, inverse
        return _permute(rows, index, inverse)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        return _permute(grad, ctx.index, not ctx.inverse), None, None


def _permute(rows: Tensor, index: Tensor, inverse: bool) -> Tensor:
    if inverse:  # reading in any order is faster than writing so
        index = torch.empty_like(index).scatter_(0, index, torch.arange(len(index)))
    return rows.index_select(0, index)


class _AllToAll(torch.autograd.Function):

    @staticmethod
    def forward(ctx: Any, rows: Tensor, output: list[int], input: list[int], ranks: Ranks) -> Tensor:
        ctx.splits, ctx.ranks = (input, output), ranks
        return _all_to_all(rows, output, input, ranks)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        output, input = ctx.splits
        return _all_to_all(grad, output, input, ctx.ranks), None, None, None


def _all_to_all(rows: Tensor, output: list[int], input: list[int], ranks: Ranks) -> Tensor:
    """rows: [sum(input), hidden] -> [sum(output), hidden]. Any dtype travels as bytes, also those
    that a backend does not know."""
    rows = rows.contiguous()
    received = rows.new_empty((sum(output), rows.shape[1]))
    ranks.all_to_all(received.view(torch.uint8), rows.view(torch.uint8), output, input)
    return received
