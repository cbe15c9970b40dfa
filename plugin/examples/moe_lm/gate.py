"""A router whose imbalance is held at a wanted value, so that runs can be compared.

What a router learns is scored per batch (mean 0, deviation 1) and one rank's experts get a bonus. The
bonus moves to another rank and other experts every few steps: who plans from the past plans wrongly.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class HeldGate(nn.Module):
    """x [tokens, hidden] -> (weights [tokens, top_k], ids [tokens, top_k]).

    ideal: experts in turn, so that every expert and rank gets the same number of tokens; the ceiling
    that balancing is measured against. step: set by the training loop; it moves the bonus.
    """

    def __init__(self, hidden: int, experts: int, top_k: int, ranks: int, imbalance: float,
                 move_every: int, layer: int, ideal: bool) -> None:
        super().__init__()
        self.router = nn.Linear(hidden, experts, bias=False)
        self.top_k, self.ranks, self.move_every = top_k, ranks, move_every
        self.layer, self.ideal, self.step = layer, ideal, 0
        self.profile = torch.linspace(1.0, 0.3, experts // ranks)
        self.bonus = 0.0 if ideal else find_bonus(self.profile, ranks, top_k, imbalance)

    def bias(self) -> Tensor:
        """[experts]: the bonus of this step."""
        moved = self.step // self.move_every + self.layer
        bias = torch.zeros(self.ranks, len(self.profile))
        bias[moved % self.ranks] = self.profile.roll(3 * moved) * self.bonus
        return bias.view(-1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.router(x)
        experts = logits.shape[1]
        if self.ideal:
            first = torch.arange(len(x)).unsqueeze(1) * self.top_k
            ids = (first + torch.arange(self.top_k)) % experts
        else:
            scores = logits.detach().float()
            scores = (scores - scores.mean(0)) / (scores.std(0) + 1e-6) + self.bias()
            ids = scores.topk(self.top_k, dim=1).indices
        weights = F.softmax(logits, dim=1).gather(1, ids)
        return weights / weights.sum(1, keepdim=True), ids


def find_bonus(profile: Tensor, ranks: int, top_k: int, imbalance: float) -> float:
    """The bonus that makes one rank's share of normal scores imbalance / ranks."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(16384, ranks * len(profile), generator=generator)
    low, high = 0.0, 50.0
    for _ in range(40):
        bonus = (low + high) / 2
        biased = scores.clone()
        biased[:, :len(profile)] += profile * bonus
        hot = (biased.topk(top_k, dim=1).indices < len(profile)).float().mean().item()
        low, high = (bonus, high) if hot * ranks < imbalance else (low, bonus)
    return low
