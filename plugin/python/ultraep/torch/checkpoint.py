"""Activation checkpointing: a recompute uses the plan of its forward.

    y = ultraep.torch.checkpoint(block, x)

is torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False, context_fn=contexts). Without it a
recompute is refused: it would be planned as a new step, perhaps differently.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import checkpoint as torch_checkpoint

from ultraep.errors import InvalidArgument

if TYPE_CHECKING:
    from ultraep.torch.layer_steps import LayerSteps
    from ultraep.torch.step import Step

#: Of every checkpoint around: one in another recomputes with it.
_recording: ContextVar["tuple[deque[tuple[LayerSteps, Step]], ...]"] = ContextVar("recording",
                                                                                  default=())
_replaying: ContextVar["deque[tuple[LayerSteps, Step]] | None"] = ContextVar("replaying",
                                                                             default=None)


def checkpoint(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """torch.utils.checkpoint.checkpoint, non-reentrant, for functions with BalancedMoE layers."""
    return torch_checkpoint.checkpoint(function, *args, use_reentrant=False, context_fn=contexts,
                                       **options)


def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """For context_fn: the forward's steps are recorded and replayed by its recompute."""
    steps: "deque[tuple[LayerSteps, Step]]" = deque()
    return _set(_recording, (*_recording.get(), steps)), _Replay(steps)


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
    for steps in _recording.get():
        steps.append((layer, step))


@contextmanager
def _set(variable: ContextVar[Any], value: Any) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


class _Replay(AbstractContextManager[None]):
    """Entered once per recompute: a graph that is kept has several."""

    def __init__(self, steps: "deque[tuple[LayerSteps, Step]]") -> None:
        self._steps = steps

    def __enter__(self) -> None:
        self._entered = ExitStack()
        self._entered.enter_context(_set(_recording, ()))
        self._entered.enter_context(_set(_replaying, deque(self._steps)))

    def __exit__(self, *error: Any) -> None:
        self._entered.__exit__(*error)
