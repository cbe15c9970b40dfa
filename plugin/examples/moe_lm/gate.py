"""A router whose imbalance is held at a wanted value, so that runs can be compared.

What the router learns is scored per batch (mean 0, deviation 1), and one rank's experts get a bonus
that makes its share of the tokens what is wanted. The bonus moves to another rank and other experts
every few steps: who plans from the past plans wrongly.
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
        self.share = imbalance / ranks
        self.profile = torch.linspace(1.0, 0.3, experts // ranks)
        self._moved = -1
        self._bias = torch.zeros(experts)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.router(x)
        experts = logits.shape[1]
        if self.ideal:
            first = torch.arange(len(x)).unsqueeze(1) * self.top_k
            ids = (first + torch.arange(self.top_k)) % experts
        else:
            scores = logits.detach().float()
            scores = (scores - scores.mean(0)) / (scores.std(0) + 1e-6)
            self._move(scores)
            ids = (scores + self._bias).topk(self.top_k, dim=1).indices
        weights = F.softmax(logits, dim=1).gather(1, ids)
        return weights / weights.sum(1, keepdim=True), ids

    def _move(self, scores: Tensor) -> None:
        """A new bias when it is time; between moves it stays as it is."""
        moved = self.step // self.move_every + self.layer
        if moved == self._moved:
            return
        self._moved = moved
        hot, per_rank = moved % self.ranks, len(self.profile)
        shape = torch.zeros(self.ranks, per_rank)
        shape[hot] = self.profile.roll(3 * moved)
        low, high = 0.0, 30.0
        for _ in range(20):
            bonus = (low + high) / 2
            ids = (scores + shape.view(-1) * bonus).topk(self.top_k, dim=1).indices
            share = (ids // per_rank == hot).float().mean().item()
            low, high = (bonus, high) if share < self.share else (low, bonus)
        self._bias = shape.view(-1) * low
