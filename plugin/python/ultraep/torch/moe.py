"""BalancedMoE: gate, dispatch, experts on main copies and slots, combine; balanced in every step."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.func import functional_call

from ultraep.torch.balancer import Balancer
from ultraep.client import PlanInfo, count_load
from ultraep.errors import InvalidArgument
from ultraep.torch.checkpoint import record_step, recorded_step
from ultraep.torch.exchange import Ranks, Routing, combine, dispatch, exchange_counts
from ultraep.torch.layout import check_alike, expert_sizes, layout_of, tensors_of
from ultraep.torch.nodes import Enter, Join, Leave, Pending, Restore
from ultraep.torch.step import Step, saved_slots

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
    `ultraep.torch.checkpoint`.
    """

    def __init__(self, gate: Gate, experts: Sequence[nn.Module], balancer: Balancer | None = None, *,
                 layer: int = 0, group: Any = None, any_order: bool = False) -> None:
        super().__init__()
        self.gate = gate
        self.experts = experts if isinstance(experts, nn.ModuleList) else nn.ModuleList(experts)
        self.balancer = balancer
        self.layer = layer
        self.any_order = any_order
        self._ranks = Ranks(balancer.group if balancer else group, balancer)
        self.rank = self._ranks.rank
        self._layout = layout_of(self.experts[0])
        self._started: tuple[Pending, list[Tensor]] | None = None
        #: Of the last forward: this rank's load row, int32 [experts], and the plan's figures.
        self.last_load: Tensor | None = None
        self.last_plan: PlanInfo | None = None
        check_alike(list(self.experts), self._layout, self.rank)
        if balancer:
            _check_balancer(balancer, list(self.experts), layer, self.rank)

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
        at its end; without it they are joined at the end of this layer's backward."""
        if self.balancer is None or not torch.is_grad_enabled():
            return x
        pending = Pending()
        result: Tensor
        result, *trainable = Join.apply(pending, x, *self._trainable())
        self._started = (pending, trainable)
        return result

    @_eager
    def _routed(self, x: Tensor, weights: Tensor, ids: Tensor, microbatch: int) -> Tensor:
        ids = self._check(x, weights, ids)
        load = torch.empty(len(self.experts) * self._ranks.count, dtype=torch.int32)
        try:
            count_load(ids.data_ptr(), ids.numel(), len(load), load.data_ptr())
        except InvalidArgument as e:
            raise InvalidArgument(f"rank {self.rank}, layer {self.layer}: the gate's {e}") from None
        self.last_load = load
        if self.balancer is None:
            out = self._plain(x, ids)
        else:
            out = self._balanced(self.balancer, x, ids, load, microbatch)
        return (out * weights.unsqueeze(-1).to(out.dtype)).sum(1)

    def _plain(self, x: Tensor, ids: Tensor) -> Tensor:
        routing = exchange_counts(ids, len(self.experts), self._ranks)
        parts = torch.split(dispatch(x, routing), routing.counts)
        return combine(torch.cat([e(part) for e, part in zip(self.experts, parts)]), routing)

    def _balanced(self, balancer: Balancer, x: Tensor, ids: Tensor, load: Tensor,
                  microbatch: int) -> Tensor:
        step = recorded_step(self)
        if step is None:
            plan = balancer.plan(load, self.layer, microbatch)
            mains = [tensors_of(e, self._layout) for e in self.experts]
            step = Step(balancer, self._layout, plan, mains, self.any_order)
            record_step(self, step)
        self.last_plan = step.plan.info
        trainable = self._join(step, x) if torch.is_grad_enabled() else None
        x = trainable.pop(0) if trainable else x
        with step.on_slots():
            physical = torch.empty_like(ids)
            step.plan.route(ids.data_ptr(), len(ids), ids.shape[1], physical.data_ptr())
            routing = exchange_counts(physical, balancer.physical_per_rank, self._ranks)
            rows = dispatch(x, routing)
            step.await_weights()
            out = self._compute(step, rows, routing, trainable)
        out = combine(out, routing)
        return Restore.apply(step, out) if trainable is not None else out

    def _join(self, step: Step, x: Tensor) -> list[Tensor]:
        """[x, *this rank's trainable parameters] behind a Join: start's, or one of its own."""
        if self._started is None:
            return list(Join.apply(Pending(step), x, *self._trainable()))
        (pending, trainable), self._started = self._started, None
        pending.step = step
        return [x, *trainable]

    def _compute(self, step: Step, rows: Tensor, routing: Routing,
                 trainable: list[Tensor] | None) -> Tensor:
        """rows: [rows, hidden] by local physical expert: main copies, then slots."""
        count = len(self._layout.trainable)
        mains = [tensors_of(e, self._layout) for e in self.experts]
        slots = [step.slot_tensors(slot) for slot in step.used_slots]
        if trainable is None:
            return self._run(step, rows, routing.counts, mains, slots)
        rows, link, *given = Enter.apply(step, rows, *trainable)
        instances = [(given[i * count:(i + 1) * count] + all_of[count:])
                     for i, all_of in enumerate(mains + slots)]
        with saved_slots(step):
            out = self._run(step, rows, routing.counts, instances[:len(mains)],
                            instances[len(mains):])
        result: Tensor = Leave.apply(step, out, link)
        return result

    def _run(self, step: Step, rows: Tensor, counts: list[int], mains: list[list[Tensor]],
             slots: list[list[Tensor]]) -> Tensor:
        parts = torch.split(rows, counts)
        names = [t.name for t in self._layout.tensors]
        # A slot is computed by the code of the first expert: all experts are alike.
        work = [(e, m, parts[i]) for i, (e, m) in enumerate(zip(self.experts, mains))]
        work += [(self.experts[0], s, parts[len(mains) + slot])
                 for slot, s in zip(step.used_slots, slots)]
        return torch.cat([functional_call(module, dict(zip(names, tensors)), (part,))
                          for module, tensors, part in work])

    def _trainable(self) -> list[Tensor]:
        count = len(self._layout.trainable)
        return [t for e in self.experts for t in tensors_of(e, self._layout)[:count]]

    def _check(self, x: Tensor, weights: Tensor, ids: Tensor) -> Tensor:
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
        if ids.dtype == torch.int64:  # a huge id must not become a small one
            ids = ids.clamp(-2**31, 2**31 - 1)
        return ids.detach().to(torch.int32).contiguous()


def make_balancer(experts: Sequence[nn.Module], group: Any = None, **options: Any) -> Balancer:
    """A Balancer for layers of such experts (this rank's of one layer; every rank has as many).
    options: those of Balancer."""
    shards, gradients = expert_sizes(experts[0])
    return Balancer(group, experts=len(experts) * dist.get_world_size(group), shard_bytes=shards,
                    gradient_bytes=gradients, **options)


def _check_balancer(balancer: Balancer, experts: list[nn.Module], layer: int, rank: int) -> None:
    shards, gradients = expert_sizes(experts[0])
    config = balancer.config
    for name, needed, given in (("experts", len(experts) * config.ranks, config.experts),
                                ("shard_bytes", shards, tuple(config.shard_bytes)),
                                ("gradient_bytes", gradients, tuple(config.gradient_bytes))):
        if needed != given:
            raise InvalidArgument(f"rank {rank}, layer {layer}: the layer's {name} are {needed}, the "
                                  f"balancer's {given}")
    if not 0 <= layer < config.layers:
        raise InvalidArgument(f"rank {rank}: layer is {layer}, the balancer has {config.layers}")
