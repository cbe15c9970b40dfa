"""How much of a step the experts' own arithmetic takes."""

import time

import torch

from moe_lm.model import MoELanguageModel


def seconds_of_experts(model: MoELanguageModel, tokens: int, repeats: int = 5) -> float:
    """Seconds of forward and backward of this rank's experts in a step, alone, each with its even
    share of this many tokens per rank; the median. Uses and clears the gradients."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        for moe in model.moes():
            top_k, ranks = model.gates[0].top_k, model.gates[0].ranks
            rows = tokens * top_k * ranks // (len(moe.experts) * ranks)
            hidden = next(moe.experts.parameters()).shape[-1]
            for expert in moe.experts:
                x = torch.randn(rows, hidden, requires_grad=True)
                expert(x).sum().backward()
        times.append(time.perf_counter() - begin)
        model.zero_grad(set_to_none=True)
    return sorted(times)[len(times) // 2]
