"""BalancedMoE: gate, dispatch, experts on main copies and slots, combine; balanced in every step."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ultraep.client import PlanInfo
from ultraep.errors import InvalidArgument
from ultraep.torch.balancer import Balancer
from ultraep.torch.exchange import Ranks, Routing, combine, dispatch, exchange_counts
from ultraep.torch.layer_steps import LayerSteps
from ultraep.torch.load import as_int32, count_load
from ultraep.torch.layout import check_alike, kind_of, layout_of
from ultraep.torch.nodes import Restore

#: x [tokens, hidden] -> (weights [tokens, top_k], logical expert ids [tokens, top_k], -1 = none)
Gate = Callable[[Tensor], tuple[Tensor, Tensor]]

F = TypeVar("F", bound=Callable[..., Any])


def _eager(function: F) -> F:
    """Outside of torch.compile: shapes are the step's, and calls wait for other ranks."""
    return cast(F, torch.compiler.disable(function))  # type: ignore[no-untyped-call]


class BalancedMoE(nn.Module):
    """A Mixture-of-Experts layer over an EP group, balanced in every step.

    gate: see Gate; a module or any callable. experts: this rank's, experts / ranks modules that map
    [rows, hidden] -> [rows, hidden] (also with no rows) and have equal parameters and buffers; logical
    expert i lives on rank i // len(experts). balancer: None gives the plain layer. layer: its number
    among the balancer's layers. group: of the plain layer; else the balancer's.
    any_order: sum replica gradients as they arrive, not in rank order: faster, not reproducible.

    Replicas are no parameters: optimizers, DDP and state_dict see the rank's own experts only. Their
    gradients are complete when autograd accumulates them, so hooks, gradient accumulation and several
    microbatches in flight work as without ultraep. Every rank calls forward, and backward, equally
    often and in the same order, also with zero tokens. Under activation checkpointing use
    `ultraep.torch.checkpoint` around the layer, not inside of an expert.

    An expert's forward, hooks included, runs for replicas as well, with the module of the rank's first
    expert and the replica's weights: it must not keep them (autograd's save_for_backward may), nor write
    to its buffers. dtype, shape and requires_grad of experts stay as they were when the layer was made.
    """

    def __init__(self, gate: Gate, experts: Sequence[nn.Module], balancer: Balancer | None = None, *,
                 layer: int = 0, group: Any = None, any_order: bool = False) -> None:
        super().__init__()
        self.gate = gate
        self.experts = experts if isinstance(experts, nn.ModuleList) else nn.ModuleList(experts)
        self.balancer = balancer
        self.layer = layer
        self._ranks = Ranks(balancer.group if balancer else group, balancer)
        self.rank = self._ranks.rank
        #: Of the last forward: this rank's load row, int32 [experts].
        self.last_load: Tensor | None = None
        self._steps: LayerSteps | None = None
        if balancer:
            self._steps = LayerSteps(self.experts, balancer, layer, any_order)
        else:
            check_alike(list(self.experts), layout_of(self.experts[0]), self.rank)

    @property
    def last_plan(self) -> PlanInfo | None:
        """Of the last forward: the plan's figures."""
        return self._steps.last_plan if self._steps else None

    def forward(self, x: Tensor, microbatch: int = 0) -> Tensor:
        """x: [..., hidden] on the CPU, any number of tokens per rank. Returns the same shape."""
        flat = x.reshape(-1, x.shape[-1])
        weights, ids = self.gate(flat)
        result: Tensor = self._routed(flat, weights, ids, microbatch).view(x.shape)
        return result

    @_eager
    def start(self, x: Tensor) -> Tensor:
        """Optional, in training: call it on the input of the block (before attention) and go on with
        the result. The sums of replica gradients then run beside attention's backward, and are joined
        at its end; without it they are joined at the end of this layer's backward. The result is a
        view of x: do not write to it in place."""
        return self._steps.start(x) if self._steps else x

    @_eager
    def _routed(self, x: Tensor, weights: Tensor, ids: Tensor, microbatch: int) -> Tensor:
        self._check(x, weights, ids)
        try:
            experts = len(self.experts) * self._ranks.count
            ids = as_int32(ids, experts)
            load = count_load(ids, experts)
        except InvalidArgument as e:
            raise InvalidArgument(f"rank {self.rank}, layer {self.layer}: the gate's {e}") from None
        self.last_load = load
        if self._steps is None:
            out = self._plain(x, ids)
        else:
            out = self._balanced(self._steps, x, ids, load, microbatch)
        return (out * weights.unsqueeze(-1).to(out.dtype)).sum(1)

    def _plain(self, x: Tensor, ids: Tensor) -> Tensor:
        routing = exchange_counts(ids, len(self.experts), self._ranks)
        parts = torch.split(dispatch(x, routing), routing.counts)
        return combine(torch.cat([e(part) for e, part in zip(self.experts, parts)]), routing)

    def _balanced(self, steps: LayerSteps, x: Tensor, ids: Tensor, load: Tensor,
                  microbatch: int) -> Tensor:
        step = steps.begin(load, microbatch)
        trainable = steps.join(step, x)
        x = trainable.pop(0) if trainable else x
        with step.on_slots():
            physical = torch.empty_like(ids)
            step.plan.route(ids.data_ptr(), len(ids), ids.shape[1], physical.data_ptr())
            routing = exchange_counts(physical, steps.balancer.physical_per_rank, self._ranks)
            rows = dispatch(x, routing)
            step.await_weights()
            out = steps.compute(step, rows, routing.counts, trainable)
        out = combine(out, routing)
        return Restore.apply(step, out) if trainable is not None else out

    def _check(self, x: Tensor, weights: Tensor, ids: Tensor) -> None:
        where = f"rank {self.rank}, layer {self.layer}: "
        if x.device.type != "cpu":
            raise InvalidArgument(f"{where}x is on {x.device}: this build balances host memory only, "
                                  "CPU tensors are needed")
        if ids.dim() != 2 or len(ids) != len(x) or ids.dtype not in (torch.int32, torch.int64):
            raise InvalidArgument(f"{where}the gate's ids are {ids.dtype} {list(ids.shape)}, must be "
                                  f"int32 or int64 [{len(x)}, top_k]")
        if weights.shape != ids.shape:
            raise InvalidArgument(f"{where}the gate's weights are {list(weights.shape)}, must be as "
                                  f"the ids {list(ids.shape)}")


def make_balancer(experts: Sequence[nn.Module], group: Any = None, **options: Any) -> Balancer:
    """A Balancer for layers of such experts (this rank's of one layer; every rank has as many).
    options: those of Balancer."""
    layout = layout_of(experts[0])
    return Balancer(group, experts=len(experts) * dist.get_world_size(group),
                    shard_bytes=layout.shard_bytes, gradient_bytes=layout.gradient_bytes,
                    agree=(layout, kind_of(experts[0])), **options)
