"""Balancing between a router and a dispatcher that speak in maps.

A router of this kind gives `probs` [tokens, experts], float, and `routing_map` [tokens, experts],
bool: which tokens go to which logical experts, with which weight. A dispatcher made for
`ranks x (experts / ranks + slots)` experts takes the same maps over physical experts:

  placed = place(plan, routing_map)
  physical = ranks * balancer.physical_per_rank
  dispatch(x, placed.probs(probs, physical), placed.routing_map(len(x), physical))
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ultraep.client import Plan
from ultraep.errors import InvalidArgument


def load_of(routing_map: Tensor) -> Tensor:
    """int32 [experts], this rank's row for `Balancer.plan`."""
    return routing_map.sum(0, dtype=torch.int32)


@dataclass(frozen=True)
class Placed:
    """Where a step's tokens go. token, expert, physical: int64 [rows], one row per True of the
    routing map, by logical expert, then token; expert is logical."""

    token: Tensor
    expert: Tensor
    physical: Tensor

    def routing_map(self, tokens: int, physical_experts: int) -> Tensor:
        """bool [tokens, physical_experts]: each row has as many experts as before."""
        result = torch.zeros((tokens, physical_experts), dtype=torch.bool)
        result[self.token, self.physical] = True
        return result

    def probs(self, probs: Tensor, physical_experts: int) -> Tensor:
        """probs [tokens, experts], of any float dtype -> [tokens, physical_experts], zero where the
        map is False. Differentiable: the gradient goes back to where the value came from."""
        chosen = probs[self.token, self.expert]
        empty = probs.new_zeros((len(probs), physical_experts))
        return empty.index_put((self.token, self.physical), chosen)


def place(plan: Plan, routing_map: Tensor) -> Placed:
    """By the plan's quotas, exactly; the same for the same map whenever it is asked.

    routing_map: bool [tokens, experts] on the CPU, whose `load_of` was this step's row. Raises
    InvalidArgument for another dtype or device, and when the counts are not those of the plan.
    """
    if routing_map.dtype != torch.bool or routing_map.dim() != 2 or \
            routing_map.device.type != "cpu":
        raise InvalidArgument(
            f"routing_map is {routing_map.dtype} {list(routing_map.shape)} on "
            f"{routing_map.device}, must be torch.bool [tokens, experts] on the CPU")
    expert, token = routing_map.t().nonzero(as_tuple=True)
    ids = expert.to(torch.int32)
    physical = torch.empty_like(ids)
    plan.route(ids.data_ptr(), len(ids), 1, physical.data_ptr())
    return Placed(token, expert, physical.to(torch.int64))
