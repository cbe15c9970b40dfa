"""Balancing for Megatron-Core's `MoELayer`.

    balancer = ultraep.megatron.balance_model(model, slots=2)  # built, not yet wrapped in DDP

Every MoE layer of the model is then planned in every step, between its `route` and its `dispatch`:

  route                   probs, routing_map [tokens, experts], logical experts; Megatron's own
  preprocess              plan; replicas start to travel; maps become [tokens, physical experts]
  dispatch                Megatron's own, to ranks x (experts / ranks + slots) experts
  routed_experts_compute  main copies, then slots
  combine, postprocess    Megatron's own

Nothing else changes: parameters, state_dict, sharded checkpoints, router, auxiliary losses,
optimizer. Replicas are no parameters. An expert's gradient is complete when autograd accumulates
it, so the hooks of Megatron's DistributedDataParallel, `main_grad` and gradient accumulation work
as before.

Supported: `SequentialMLP` experts on the CPU; dispatcher "alltoall", whose results have the bits
of the layer without balancing where the experts' arithmetic is row-independent, and "allgather",
whose sums go by rank: with more than two experts per token equal up to rounding; shared experts;
token dropping; Megatron's recompute, selective and full. What other parallelism does to a layer's
input does not matter here.

Refused with InvalidArgument: the grouped experts (`TEGroupedMLP`, `GroupedMLP`: CUDA kernels over
all experts of a rank; this build balances host memory), dispatcher "flex", tensor parallelism of
experts, and the options in `_REFUSED`; in the forward, hooks before the experts, which
overlap_param_gather makes. Not supported and not noticed: FSDP.

Tested with megatron-core 0.16.1 and 0.19.2.
"""

# mypy: disable-error-code="import-untyped,import-not-found"

import copy
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from megatron.core import tensor_parallel
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.moe.experts import SequentialMLP
from megatron.core.transformer.moe.moe_layer import MoELayer
from megatron.core.transformer.moe.token_dispatcher import (MoEAllGatherTokenDispatcher,
                                                            MoEAlltoAllTokenDispatcher)
from torch import Tensor, nn

from ultraep.client import PlanInfo
from ultraep.errors import InvalidArgument
from ultraep.torch.balancer import Balancer
from ultraep.torch.checkpoint import contexts
from ultraep.torch.layer_steps import LayerSteps
from ultraep.torch.maps import Placed, load_of, place
from ultraep.torch.moe import make_balancer
from ultraep.torch.nodes import Restore
from ultraep.torch.step import Step

#: Options of TransformerConfig: (name, what balancing needs, why).
_REFUSED: tuple[tuple[str, tuple[Any, ...], str], ...] = (
    ("gradient_accumulation_fusion", (False,),
     "it adds to main_grad behind autograd's back, where replicas' gradients do not come"),
    ("delay_wgrad_compute", (False,), "replicas' gradients are summed at the end of the backward"),
    ("overlap_dispatch_backward_with_experts_wgrad", (False,), "as delay_wgrad_compute"),
    ("overlap_moe_expert_parallel_comm", (False,), "it calls the parts of a layer on its own"),
    ("moe_pad_expert_input_to_capacity", (False,), "every instance would be padded to capacity"),
    ("moe_router_padding_for_quantization", (False,), "padding is no token of the plan"),
    ("moe_apply_probs_on_input", (False,), "the experts are called with probs"),
    ("fp8", (None, False), "expert weights travel as they are kept, without scales"),
    ("fp4", (None, False), "expert weights travel as they are kept, without scales"),
    ("transformer_impl", ("transformer_engine", "local"),
     "its inference changes the dispatcher in every forward"),
    ("cuda_graph_impl", ("none", None), "a step waits for its plan on the host"),
)


class BalancedMoELayer(MoELayer):  # type: ignore[misc]
    """What `balance` makes of a MoELayer. Collective in forward and backward, as before; every rank
    of the EP group calls its layers in the same order. Raises Failed when a step is lost to a rank
    that could not follow a plan: treat it like a failed collective."""

    _steps: LayerSteps
    _slots: ExitStack
    _now: tuple[Step, list[Tensor] | None]
    #: Number of the microbatch, for the plan's record; a block's hook sets it.
    microbatch: int
    #: Of the last forward: this rank's load row, int32 [experts].
    last_load: Tensor | None

    @property
    def last_plan(self) -> PlanInfo | None:
        """Of the last forward: the plan's figures."""
        return self._steps.last_plan

    def start(self, hidden_states: Tensor) -> Tensor:
        """For the input of the transformer layer, which goes on with the result: the sums of
        replica gradients then run beside attention's backward. `balance` with `block` calls it."""
        return self._steps.start(hidden_states)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with ExitStack() as self._slots:  # whatever happens in between, slots are given back
            return super().forward(*args, **kwargs)

    def preprocess(self, hidden_states: Tensor, probs: Tensor, routing_map: Tensor) -> Any:
        """Between router and dispatcher. hidden_states: [..., hidden]; probs, routing_map: [tokens,
        experts] of logical experts."""
        self._check(hidden_states)
        self.last_load = load_of(routing_map)
        step = self._steps.begin(self.last_load, self.microbatch)
        trainable = self._steps.join(step, hidden_states)
        if trainable is not None:
            hidden_states = trainable.pop(0)
        self._now = step, trainable
        self._slots.enter_context(step.on_slots())
        balancer = self._steps.balancer
        physical = balancer.config.ranks * balancer.physical_per_rank
        placed = place(step.plan, routing_map)
        if isinstance(self.token_dispatcher, _AllToAll):
            self.token_dispatcher.follow(placed, placed.routing_map(len(probs), physical))
        else:
            routing_map = placed.routing_map(len(probs), physical)
            probs = placed.probs(probs, physical)
        return super().preprocess(hidden_states, probs, routing_map)

    def routed_experts_compute(self, hidden_states: Tensor, probs: Tensor) -> Any:
        """hidden_states: [rows, hidden], probs: [rows], as dispatched."""
        rows, counts, probs = self.token_dispatcher.dispatch_postprocess(hidden_states, probs)
        step, trainable = self._now
        step.await_weights()
        out = self._steps.compute(step, rows, counts.tolist(), trainable, probs)
        self._slots.close()
        return self.token_dispatcher.combine_preprocess(out), None

    def combine(self, output: Tensor) -> Any:
        output = super().combine(output)
        step, trainable = self._now
        del self._now
        return Restore.apply(step, output) if trainable is not None else output

    def _check(self, hidden_states: Tensor) -> None:
        where = f"rank {self._steps.rank}, layer {self._steps.layer}: "
        if hidden_states.device.type != "cpu":
            raise InvalidArgument(f"{where}hidden_states are on {hidden_states.device}: this build "
                                  "balances host memory only, CPU tensors are needed")
        for name, module in self.experts.named_modules():
            if module._forward_pre_hooks:
                raise InvalidArgument(
                    f"{where}a hook runs before expert module '{name}': weights travel earlier "
                    "than that; overlap_param_gather must be off")


class _AllToAll(MoEAlltoAllTokenDispatcher):  # type: ignore[misc]
    """Tokens are permuted by logical expert, as without balancing; their rows are reordered by
    physical expert only for the way. A token's outputs, and its gradients, are thus added in the
    same order as without."""

    _map: Tensor
    _to_physical: Tensor
    _to_logical: Tensor

    def follow(self, placed: Placed, routing_map: Tensor) -> None:
        """Where the next step's rows go. routing_map: bool [tokens, physical experts]."""
        self._map = routing_map
        self._to_physical = torch.argsort(placed.physical, stable=True)
        self._to_logical = torch.argsort(self._to_physical)

    def preprocess(self, routing_map: Tensor) -> Any:
        """Counts what is sent and received: of physical experts."""
        return super().preprocess(self._map)

    def token_dispatch(self, rows: Tensor, probs: Tensor) -> Any:
        return super().token_dispatch(rows[self._to_physical], probs[self._to_physical])

    def token_combine(self, rows: Tensor, *args: Any, **kwargs: Any) -> Any:
        return super().token_combine(rows, *args, **kwargs)[self._to_logical]


def balance_model(model: nn.Module | Sequence[nn.Module], *, any_order: bool = False,
                  **options: Any) -> Balancer | None:
    """Balances every MoE layer of a model, or of a rank's list of model chunks, with one Balancer.

    Collective of the EP group. options: those of Balancer, but `experts`, `layers` and the sizes.
    Returns the balancer; None when this pipeline stage has no MoE layer. Raises InvalidArgument for
    what is not supported; then no layer was changed.
    """
    chunks = [model] if isinstance(model, nn.Module) else model
    blocks = [m for chunk in chunks for m in chunk.modules()
              if isinstance(m._modules.get("mlp"), MoELayer)]
    if not blocks:
        return None
    for block in blocks:
        _check_layer(block.mlp)
    first: Any = blocks[0].mlp
    balancer = make_balancer(first.experts.local_experts, first.ep_group, layers=len(blocks),
                             **options)
    for layer, block in enumerate(blocks):
        balance(block.mlp, balancer, layer=layer, block=block, any_order=any_order)
    return balancer


def balance(moe: Any, balancer: Balancer, *, layer: int = 0, block: nn.Module | None = None,
            any_order: bool = False) -> BalancedMoELayer:
    """Makes this MoELayer a BalancedMoELayer, in place.

    balancer: of `ultraep.torch.make_balancer(moe.experts.local_experts, moe.ep_group)`, one for all
    layers that are alike. layer: its number among the balancer's layers. block: the transformer
    layer whose `mlp` it is; with it the sums of replica gradients run beside attention's backward,
    and plans know the number of their microbatch. any_order: sum replica gradients as they arrive,
    not in rank order: faster, not reproducible. Raises InvalidArgument, and changes nothing, for
    what is not supported.
    """
    _check_layer(moe)
    group = (moe.ep_group.rank(), moe.ep_group.size())
    if group != (balancer.config.rank, balancer.config.ranks):
        raise InvalidArgument(
            f"Megatron layer {moe.layer_number}: this is rank {group[0]} of {group[1]} of its EP "
            f"group, and rank {balancer.config.rank} of {balancer.config.ranks} of the balancer's")
    steps = LayerSteps(moe.experts.local_experts, balancer, layer, any_order)
    dispatcher = _dispatcher(moe, balancer)
    moe.__class__ = BalancedMoELayer
    moe._steps, moe.token_dispatcher, moe.microbatch, moe.last_load = steps, dispatcher, 0, None
    if block is not None:
        block.register_forward_pre_hook(_enter_block, with_kwargs=True)
    if moe.config.recompute_granularity is not None:
        tensor_parallel.checkpoint = recompute  # Megatron looks it up there at every call
    result: BalancedMoELayer = moe
    return result


def recompute(function: Callable[..., Any], distribute_saved_activations: bool, *args: Any) -> Any:
    """megatron.core.tensor_parallel.checkpoint for functions with balanced layers: the recompute
    follows the plans of the forward. `balance` puts it in that place when the config recomputes."""
    runs = iter(contexts())

    def run(*inputs: Any) -> Any:
        with next(runs):
            return function(*inputs)

    return _megatrons_checkpoint(run, distribute_saved_activations, *args)


_megatrons_checkpoint = tensor_parallel.checkpoint


def _enter_block(block: Any, args: Any, kwargs: Any) -> Any:
    moe = block.mlp
    moe.microbatch = getattr(block, "current_microbatch", None) or 0
    if args:
        return (moe.start(args[0]), *args[1:]), kwargs
    return args, {**kwargs, "hidden_states": moe.start(kwargs["hidden_states"])}


def _check_layer(moe: Any) -> None:
    """Raises InvalidArgument unless the layer can be balanced."""
    where = f"Megatron layer {getattr(moe, 'layer_number', None)}: "
    if isinstance(moe, BalancedMoELayer):
        raise InvalidArgument(f"{where}it is balanced already")
    if type(moe) is not MoELayer:  # a subclass may have parts that are not known here
        raise InvalidArgument(f"{where}it is a {type(moe).__name__}, must be MoELayer itself")
    if not isinstance(moe.experts, SequentialMLP):
        raise InvalidArgument(
            f"{where}its experts are a {type(moe.experts).__name__}, must be SequentialMLP "
            "(moe_grouped_gemm=False): grouped kernels need weights on a GPU, and this build "
            "balances host memory")
    dispatchers = (MoEAlltoAllTokenDispatcher, MoEAllGatherTokenDispatcher)
    if type(moe.token_dispatcher) not in dispatchers:
        raise InvalidArgument(f"{where}its dispatcher is a {type(moe.token_dispatcher).__name__}, "
                              "moe_token_dispatcher_type must be 'alltoall' or 'allgather'")
    if moe.token_dispatcher.tp_size != 1:
        raise InvalidArgument(
            f"{where}expert_tensor_parallel_size is {moe.token_dispatcher.tp_size}, must be 1: "
            "ranks that share an expert would plan it apart")
    for name, allowed, why in _REFUSED:
        value = getattr(moe.config, name, allowed[0])
        if value not in allowed:
            raise InvalidArgument(f"{where}{name} is {value!r}, must be {allowed[0]!r}: {why}")


def _dispatcher(moe: Any, balancer: Balancer) -> Any:
    """Megatron's dispatcher of the layer once more, for main copies and slots."""
    old = moe.token_dispatcher
    per_rank = balancer.physical_per_rank
    config = copy.copy(moe.config)
    config.num_moe_experts = per_rank * balancer.config.ranks
    kind = _AllToAll if isinstance(old, MoEAlltoAllTokenDispatcher) else MoEAllGatherTokenDispatcher
    first = balancer.config.rank * per_rank
    groups = ProcessGroupCollection(ep=old.ep_group, expt_tp=old.tp_group, tp_ep=old.tp_ep_group)
    new = kind(per_rank, list(range(first, first + per_rank)), config=config, pg_collection=groups)
    if moe.shared_expert_overlap:
        new.set_shared_experts(moe.shared_experts)
    return new
