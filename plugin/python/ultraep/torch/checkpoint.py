"""Activation checkpointing: a recompute uses the plan of its forward.

    y = ultraep.torch.checkpoint(block, x)

is torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False, context_fn=contexts). Without it a
recompute is refused: it would be planned as a new step, perhaps differently.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import checkpoint as torch_checkpoint

from ultraep.errors import InvalidArgument

if TYPE_CHECKING:
    from ultraep.torch.layer_steps import LayerSteps
    from ultraep.torch.step import Step

_recording: ContextVar["deque[tuple[LayerSteps, Step]] | None"] = ContextVar("recording",
                                                                             default=None)
_replaying: ContextVar["deque[tuple[LayerSteps, Step]] | None"] = ContextVar("replaying",
                                                                             default=None)


def checkpoint(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """torch.utils.checkpoint.checkpoint, non-reentrant, for functions with BalancedMoE layers."""
    return torch_checkpoint.checkpoint(function, *args, use_reentrant=False, context_fn=contexts,
                                       **options)


def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """For context_fn: the forward's steps are recorded and replayed by its recompute."""
    steps: "deque[tuple[LayerSteps, Step]]" = deque()
    return _set(_recording, steps), _replay(steps)


def recorded_step(layer: "LayerSteps") -> "Step | None":
    """The step of this forward's first run, or None: this is it."""
    steps = _replaying.get()
    if steps is None:
        if torch._C._current_graph_task_id() != -1:
            raise InvalidArgument(
                f"rank {layer.rank}, layer {layer.layer}: recomputed without its plan; use "
                "ultraep.torch.checkpoint, or context_fn=ultraep.torch.checkpoint_contexts")
        return None
    if not steps or steps[0][0] is not layer:
        raise InvalidArgument(f"rank {layer.rank}, layer {layer.layer}: its forward did not run at "
                              "this place of the checkpoint")
    return steps.popleft()[1]


def record_step(layer: "LayerSteps", step: "Step") -> None:
    steps = _recording.get()
    if steps is not None:
        steps.append((layer, step))


@contextmanager
def _set(variable: ContextVar[Any], value: Any) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


@contextmanager
def _replay(steps: "deque[tuple[LayerSteps, Step]]") -> Iterator[None]:
    with _set(_recording, None), _set(_replaying, deque(steps)):
        yield
