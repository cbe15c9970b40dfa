"""Training one model, one step at a time, and what is seen of it."""

import time
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from moe_lm.model import MoELanguageModel
from ultraep import Verdict


@dataclass
class Seen:
    """Of one model: per step, and per timed stretch of steps."""

    loss: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)  # of each stretch, divided by its steps
    loads: list[Tensor] = field(default_factory=list)  # per step and layer: this rank's row
    peaks: list[float | None] = field(default_factory=list)  # the same: imbalance after, if planned
    verdicts: dict[str, int] = field(default_factory=dict)


class Text:
    """Random windows of a text as batches, the same on every machine; each rank has its own."""

    def __init__(self, data: bytes, batch: int, length: int, rank: int, seed: int) -> None:
        self._data = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        self._batch, self._length = batch, length
        self._rank, self._seed = rank, seed

    def batch(self, step: int) -> Tensor:
        """int64 [batch, length + 1] of this rank in this step."""
        random = torch.Generator().manual_seed((self._seed * 1_000_003 + step) * 1009 + self._rank)
        starts = torch.randint(0, len(self._data) - self._length, (self._batch,), generator=random)
        return torch.stack([self._data[s:s + self._length + 1] for s in starts.tolist()]).long()


class Trainer:

    def __init__(self, model: MoELanguageModel, text: Text, learning_rate: float) -> None:
        self.model, self.text, self.seen = model, text, Seen()
        self._ranks = dist.get_world_size()
        self._optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, fused=True)
        self._step = 0

    def stretch(self, steps: int, timed: bool) -> None:
        """Trains `steps` steps; the time from when all ranks begin to when all are done counts."""
        dist.barrier()
        begin = time.perf_counter()
        losses = [self._train_step() for _ in range(steps)]
        dist.barrier()
        if timed:
            self.seen.seconds.append((time.perf_counter() - begin) / steps)
        together = torch.stack(losses)
        dist.all_reduce(together)
        self.seen.loss += (together / self._ranks).tolist()

    def _train_step(self) -> Tensor:
        for gate in self.model.gates:
            gate.step = self._step
        batch = self.text.batch(self._step)
        self._step += 1
        logits = self.model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._average_gradients()
        self._optimizer.step()
        self._look()
        return loss.detach()

    def _average_gradients(self) -> None:
        """Shared parameters: the mean over ranks. Experts have the sum over all ranks' tokens."""
        shared = [p.grad for p in self.model.shared_parameters() if p.grad is not None]
        flat = torch.cat([g.flatten() for g in shared])
        dist.all_reduce(flat)
        for g, total in zip(shared, flat.split([g.numel() for g in shared])):
            torch.div(total.view_as(g), self._ranks, out=g)
        for p in self.model.expert_parameters():
            if p.grad is not None:
                p.grad.div_(self._ranks)

    def _look(self) -> None:
        for moe in self.model.moes():
            assert moe.last_load is not None
            self.seen.loads.append(moe.last_load.clone())
            plan = moe.last_plan
            after = plan.imbalance(self._ranks) if plan else None
            self.seen.peaks.append(after[1] if after else None)
            if plan:
                name = Verdict(plan.verdict).name.lower()
                self.seen.verdicts[name] = self.seen.verdicts.get(name, 0) + 1


def all_loads(seen: Seen, layers: int) -> Tensor:
    """uint32 [steps, layers, ranks, experts] of all ranks. Collective."""
    own = torch.stack(seen.loads)
    everyone = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, own)
    return torch.stack(everyone, dim=1).view(-1, layers, len(everyone), own.shape[1])


def imbalances(loads: Tensor, peaks: list[float | None]) -> tuple[float, float]:
    """Means over steps and layers of max / mean tokens per rank, before and after. loads: as of
    all_loads; peaks: the plans' own figures, None where a step ran on the main copies."""
    steps, layers, ranks, experts = loads.shape
    per_rank = loads.double().sum(2).view(steps * layers, ranks, experts // ranks).sum(2)
    before = (per_rank.max(1).values / per_rank.mean(1).clamp(min=1e-9)).tolist()
    after = [b if p is None else p for b, p in zip(before, peaks)]
    return sum(before) / len(before), sum(after) / len(after)
