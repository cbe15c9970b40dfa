"""The pieces of a balanced layer as PyTorch operators (`torch.ops.ultraep.*`), for layers of your
own that torch.compile takes in one graph (fullgraph=True). `BalancedMoE` needs none of this.

    key = ops.register(balancer)                                  # once, outside of the graph

    load = ops.count_load(ids, experts)                           # ids: what the gate chose
    ticket = ops.plan(load, key, layer, microbatch)               # waits for the step's verdict
    ticket, flight = ops.stream(ticket, weights)                  # replicas begin to travel
    physical = ops.route(ticket, ids)
    rows = ...                                                    # your dispatch of x by `physical`
    rows, replicas = ops.await_weights(ticket, flight, rows, weights, slots)
    out = ...                                                     # your experts over rows
    y = ...                                                       # your combine

weights: one tensor [experts / ranks, *shape] per shard of the balancer, this rank's main copies,
the trained ones first. replicas: as many tensors [slots, *shape]. Local physical expert i is row i
of `torch.cat([weights[t], replicas[t]])`.

Gradients: `stream` and `await_weights` are one linear map, from all ranks' main copies to this
rank's slots, begun and finished. Their backward is its transpose, begun and finished: `reduce`
hands the replicas' gradients over, `await_gradients` waits for the sums that arrived for this
rank's main copies. Autograd adds these to the main copies' own gradients. So there is nothing to
call, and the sums run beside the backward of your dispatch.

Order: all ranks must plan, stream and reduce in the same order, and a compiler may move, merge or
drop what has no data dependence. Every piece therefore takes what the one before it gave, and
`await_weights` lies on the way of the rows and of their gradient. It follows that the layers of a
graph must depend on each other, as blocks of a transformer do; that `rows` must need what `route`
gave; and that every rank uses `rows` and `replicas` also when it has no tokens. Two calls of `plan`
with the same arguments are one step to a compiler: give each layer and microbatch its number.

Tickets: a ticket is an int64 [1] tensor on the CPU whose memory owns the step. The step lives as
long as a ticket does, or an autograd graph that saved one: nothing is to be dropped by hand, and a
forward whose backward never comes leaks nothing. (A plan that is dropped before `stream` fails the
group's generation: other ranks wait for its weights.) The number in a ticket means nothing without
that memory: a compiled graph's saved tensors must not be offloaded or copied by hooks. A ticket
whose memory is gone raises InvalidArgument.

Costs beside BalancedMoE: replicas are copied out of the slots, for compilers write into operators'
results and slots are shared memory. In training these copies stay until the backward, which streams
the replicas again all the same, for a reduction needs its slots; and that restore is waited for. A
checkpoint must not recompute `plan`: that raises.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from ultraep.errors import InvalidArgument
from ultraep.torch import load as loads
from ultraep.torch.tickets import Held, balancer_of, held_by, live_steps, register, ticket_of

__all__ = [
    "await_gradients", "await_weights", "count_load", "live_steps", "plan", "reduce", "register",
    "route", "stream"
]

F = TypeVar("F", bound=Callable[..., Any])


def _operator(schema: str) -> Callable[[F], F]:
    """Makes it the operator ultraep::NAME. None of them writes into its arguments, none returns
    their memory: what a compiler may assume."""

    def define(function: F) -> F:
        name = f"ultraep::{function.__name__}"
        return cast(F, torch.library.custom_op(name, function, mutates_args=(), schema=schema))

    return define


def _shapes_of(operator: Callable[..., Any]) -> Callable[[F], F]:
    """What a compiler sees of an operator: shapes and dtypes."""
    return cast(Callable[[F], F], cast(Any, operator).register_fake)


# Load and plan


@_operator("(Tensor ids, SymInt experts) -> Tensor")
def count_load(ids: Tensor, experts: int) -> Tensor:
    """Tokens that this rank routes to each logical expert.

    ids: int32 or int64, any shape, -1 = none. Returns int32 [experts]. Raises InvalidArgument for
    ids that are not in -1 .. experts-1.
    """
    return loads.count_load(loads.as_int32(ids, experts), experts)


@_shapes_of(count_load)
def _(ids: Tensor, experts: int) -> Tensor:
    return ids.new_empty((experts,), dtype=torch.int32)


@_operator("(Tensor load, SymInt balancer, SymInt layer, SymInt microbatch) -> Tensor")
def plan(load: Tensor, balancer: int, layer: int, microbatch: int) -> Tensor:
    """Submits the step's load and waits for the verdict; every rank for every step.

    load: int32 [experts]. balancer: from `register`. Returns a ticket, int64 [1]. Raises Failed
    when the step is lost, InvalidArgument for a wrong load or layer and when a checkpoint
    recomputes it.
    """
    known = balancer_of(balancer)
    if torch._C._current_graph_task_id() != -1:
        raise InvalidArgument(f"rank {known.config.rank}, layer {layer}: plan is recomputed in a "
                              "backward, it would be a new step; keep it out of the checkpoint")
    return ticket_of(Held(known, known.plan(load, layer, microbatch)))


@_shapes_of(plan)
def _(load: Tensor, balancer: int, layer: int, microbatch: int) -> Tensor:
    return load.new_empty((1,), dtype=torch.int64)


@_operator("(Tensor ticket, Tensor ids) -> Tensor")
def route(ticket: Tensor, ids: Tensor) -> Tensor:
    """Logical ids to physical ids: rank * (experts / ranks + slots) + local.

    ids: the int32 or int64 [tokens, top_k] that were counted for the plan, -1 stays. Returns the
    same dtype and shape. Raises InvalidArgument when the counts are others.
    """
    held = held_by(ticket)
    if ids.dim() != 2:
        raise InvalidArgument(f"rank {held.rank}: ids are {list(ids.shape)}, must be "
                              "[tokens, top_k]")
    logical = loads.as_int32(ids, held.balancer.config.experts)
    physical = torch.empty_like(logical)
    held.plan.route(logical.data_ptr(), len(ids), ids.shape[1], physical.data_ptr())
    return physical.to(ids.dtype)


@_shapes_of(route)
def _(ticket: Tensor, ids: Tensor) -> Tensor:
    return ids.new_empty(ids.shape)


# Weights: main copies -> slots


@_operator("(Tensor ticket, Tensor[] weights) -> (Tensor, Tensor)")
def stream(ticket: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Starts to send this rank's main copies to their replicas' slots; returns at once.

    weights: [experts / ranks, *shape] each, contiguous, on the CPU, as many and as large as the
    balancer's shards; they must not be written to before `await_weights`. Returns (ticket, flight):
    use this ticket from here on. flight: float32 [1], what `await_weights` waits for. Raises
    InvalidArgument for weights that are not the balancer's, Failed when a rank is gone.
    """
    held = held_by(ticket)
    held.begin(weights)
    return ticket_of(held), torch.zeros(1)


@_shapes_of(stream)
def _(ticket: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    return torch.empty_like(ticket), ticket.new_empty((1,), dtype=torch.float32)


@_operator("(Tensor ticket, Tensor flight, Tensor rows, Tensor[] weights, SymInt slots) "
           "-> (Tensor, Tensor[])")
def await_weights(ticket: Tensor, flight: Tensor, rows: Tensor, weights: Sequence[Tensor],
                  slots: int) -> tuple[Tensor, list[Tensor]]:
    """Waits for this rank's replicas, copies them out and releases the slots.

    flight, weights: as in `stream`. rows: what the experts will compute, any tensor; it is here so
    that dispatch comes before the wait. slots: the balancer's per rank. Returns (rows, replicas),
    these one [slots, *shape] per weight, zeros where a slot is empty. Raises InvalidArgument for
    other weights or slots, Failed naming a missing rank.
    """
    held = held_by(ticket)
    step = held.step("await_weights", "stream")
    held.check_places(weights)
    if slots != held.balancer.config.slots:
        raise InvalidArgument(f"rank {held.rank}: slots is {slots}, the balancer has "
                              f"{held.balancer.config.slots}")
    step.await_weights()
    replicas = [w.new_zeros((slots, *w.shape[1:])) for w in weights]
    for slot in step.used_slots:
        for replica, shared in zip(replicas, step.slot_tensors(slot)):
            replica[slot] = shared
    step.release()
    held.end()
    return _copy(rows), replicas


@_shapes_of(await_weights)
def _(ticket: Tensor, flight: Tensor, rows: Tensor, weights: Sequence[Tensor],
      slots: int) -> tuple[Tensor, list[Tensor]]:
    return rows.new_empty(rows.shape), [w.new_empty((slots, *w.shape[1:])) for w in weights]


# Gradients: slots -> main copies


@_operator("(Tensor ticket, Tensor rows, Tensor[] gradients, Tensor[] weights) -> (Tensor, Tensor)")
def reduce(ticket: Tensor, rows: Tensor, gradients: Sequence[Tensor],
           weights: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Hands the replicas' gradients to their homes; the backward of `await_weights`.

    rows: the gradient of its rows, any tensor. gradients: of its trained replicas, [slots, *shape]
    each. weights: as in `stream`; read only in here. Returns (rows, landing): landing, float32 [1],
    is what `await_gradients` waits for. Raises as `stream` and `await_weights`.
    """
    held = held_by(ticket)
    parts = len(held.balancer.config.gradient_bytes)
    if len(gradients) != parts:
        raise InvalidArgument(f"rank {held.rank}: {len(gradients)} of the weights need gradients, "
                              f"the balancer's gradient_bytes are for {parts}: the first ones")
    step = held.begin(weights)
    step.prepare_gradients()
    step.await_weights()
    step.end_backward([None] * (held.balancer.experts_per_rank * parts),
                      [g[slot] for slot in step.used_slots for g in gradients])
    return _copy(rows), torch.zeros(1)


@_shapes_of(reduce)
def _(ticket: Tensor, rows: Tensor, gradients: Sequence[Tensor],
      weights: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    return rows.new_empty(rows.shape), ticket.new_empty((1,), dtype=torch.float32)


@_operator("(Tensor ticket, Tensor landing, Tensor[] weights) -> Tensor[]")
def await_gradients(ticket: Tensor, landing: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    """Waits for the sums over this rank's main copies' replicas; the backward of `stream`.

    landing: from `reduce`. weights: the trained ones, for their shapes. Returns the sums: as the
    weights, added in rank order in float32, zero without replicas. Raises Failed naming a missing
    rank.
    """
    held = held_by(ticket)
    count = len(weights)
    sums = held.step("await_gradients", "reduce").join(
        [None] * (held.balancer.experts_per_rank * count))
    held.end()
    totals = [w.new_zeros(w.shape) for w in weights]
    for number, total in enumerate(sums):
        if total is not None:
            totals[number % count][number // count] = total
    return totals


@_shapes_of(await_gradients)
def _(ticket: Tensor, landing: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    return [w.new_empty(w.shape) for w in weights]


# Autograd. Tickets are kept beside the saved tensors, where no hook copies them; they have no
# grad_fn, so this is no cycle.


def _save_stream(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    ctx.ticket = output[0]
    ctx.save_for_backward(*inputs[1])


def _transposed_stream(ctx: Any, _: Tensor, landing: Tensor) -> tuple[Any, ...]:
    trained = ctx.needs_input_grad[1]
    sums = iter(await_gradients(ctx.ticket, landing, _chosen(ctx.saved_tensors, trained)))
    return None, [next(sums) if needed else None for needed in trained]


def _save_await(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    ctx.ticket = inputs[0]
    ctx.save_for_backward(*inputs[3])


def _transposed_await(ctx: Any, rows: Tensor, gradients: list[Tensor]) -> tuple[Any, ...]:
    _, streamed, _, trained, _ = ctx.needs_input_grad
    if streamed != any(trained):
        raise InvalidArgument("stream and await_weights must get the same weights: one of them "
                              "would have gradients, the other not")
    landing = None
    if streamed:
        rows, landing = reduce(ctx.ticket, rows, _chosen(gradients, trained),
                               list(ctx.saved_tensors))
    return None, landing, rows, [None] * len(trained), None


torch.library.register_autograd("ultraep::stream", _transposed_stream, setup_context=_save_stream)
torch.library.register_autograd("ultraep::await_weights", _transposed_await,
                                setup_context=_save_await)


def _chosen(tensors: Sequence[Tensor], which: Sequence[bool]) -> list[Tensor]:
    return list(itertools.compress(tensors, which))


def _copy(rows: Tensor) -> Tensor:
    return rows.clone(memory_format=torch.contiguous_format)

