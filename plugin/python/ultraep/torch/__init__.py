"""ultraep for PyTorch, 2.9 or newer: BalancedMoE and the pieces it is made of."""

import torch

if not hasattr(torch._C._autograd, "_top_saved_tensors_default_hooks"):
    raise ImportError(f"ultraep.torch needs torch 2.9 or newer, this is {torch.__version__}")

from ultraep.torch.checkpoint import checkpoint
from ultraep.torch.checkpoint import contexts as checkpoint_contexts
from ultraep.torch.experts import TiledExpert, rows_are_independent, tiled_linear
from ultraep.torch.layout import expert_sizes
from ultraep.torch.moe import BalancedMoE, Gate, make_balancer

__all__ = [
    "BalancedMoE", "Gate", "TiledExpert", "checkpoint", "checkpoint_contexts", "expert_sizes",
    "make_balancer", "rows_are_independent", "tiled_linear"
]
