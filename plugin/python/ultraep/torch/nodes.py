"""The layer's places in autograd's graph. All are identities in the forward.

  x, parameters -> Join -> attention, gate, dispatch -> Enter -> experts -> Leave -> combine -> Restore

In the backward, from the right: Restore starts to stream the replicas back, Leave waits for them,
Enter hands their gradients over and starts the sums, Join waits for the sums. `link` ties Enter to
Leave also where this rank's experts got no rows: every rank restores and reduces every step.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ultraep.torch.step import Step


class Pending:
    """A Join's step; planned after the Join was passed, when that is the block's start."""

    def __init__(self, step: Step | None = None) -> None:
        self.step = step


class Join(torch.autograd.Function):
    """(pending, x, *parameters) -> (x, *parameters)"""

    @staticmethod
    def forward(ctx: Any, pending: Pending, x: Tensor, *parameters: Tensor) -> Any:
        ctx.pending = pending
        ctx.set_materialize_grads(False)
        return (x.view_as(x), *(p.view_as(p) for p in parameters))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, x: Tensor | None, *parameters: Tensor | None) -> Any:
        step = ctx.pending.step
        return (None, x, *(step.join(parameters) if step else parameters))


class Enter(torch.autograd.Function):
    """(step, rows, *parameters) -> (rows, link, *parameters, *parameters of the used slots)"""

    @staticmethod
    def forward(ctx: Any, step: Step, rows: Tensor, *parameters: Tensor) -> Any:
        ctx.step, ctx.mains = step, len(parameters)
        ctx.set_materialize_grads(False)
        trainable = len(step.layout.trainable)
        slots = [
            t.detach() for slot in step.used_slots for t in step.slot_tensors(slot)[:trainable]
        ]
        return (rows.view_as(rows), rows.new_zeros(()), *(p.view_as(p) for p in parameters),
                *slots)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, rows: Tensor | None, link: Tensor | None, *rest: Tensor | None) -> Any:
        return (None, rows, *ctx.step.end_backward(rest[:ctx.mains], rest[ctx.mains:]))


class Leave(torch.autograd.Function):
    """(step, rows, link) -> rows"""

    @staticmethod
    def forward(ctx: Any, step: Step, rows: Tensor, link: Tensor) -> Tensor:
        ctx.step = step
        return rows.view_as(rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, rows: Tensor) -> Any:
        ctx.step.prepare_gradients()
        ctx.step.await_weights()
        return None, rows, rows.new_zeros(())


class Restore(torch.autograd.Function):
    """(step, y) -> y"""

    @staticmethod
    def forward(ctx: Any, step: Step, y: Tensor) -> Tensor:
        ctx.step = step
        return y.view_as(y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, y: Tensor) -> Any:
        if not ctx.step.streamed:
            ctx.step.stream()
        return None, y
