"""A small decoder-only language model on bytes whose feed-forward layers are Mixtures of Experts."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ultraep.torch
from moe_lm.gate import HeldGate
from ultraep import Balancer


@dataclass(frozen=True)
class Shape:
    layers: int
    hidden: int
    ffn: int
    heads: int
    experts: int
    top_k: int
    ranks: int
    vocabulary: int = 256  # bytes


class Expert(nn.Module):
    """[rows, hidden] -> [rows, hidden], SwiGLU"""

    def __init__(self, hidden: int, ffn: int) -> None:
        super().__init__()
        self.gate = nn.Linear(hidden, ffn, bias=False)
        self.up = nn.Linear(hidden, ffn, bias=False)
        self.down = nn.Linear(ffn, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Attention(nn.Module):

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(hidden, 3 * hidden, bias=False)
        self.out = nn.Linear(hidden, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, hidden = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(batch, length, hidden))


class Block(nn.Module):

    def __init__(self, shape: Shape, moe: ultraep.torch.BalancedMoE) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(shape.hidden), nn.LayerNorm(shape.hidden)
        self.attention = Attention(shape.hidden, shape.heads)
        self.moe = moe

    def forward(self, x: Tensor) -> Tensor:
        x = self.moe.start(x)  # replica gradients are joined when attention's backward is done
        x = x + self.attention(self.norm1(x))
        return x + self.moe(self.norm2(x))


class MoELanguageModel(nn.Module):
    """tokens int64 [batch, length] -> logits [batch, length, vocabulary]. `balancer` None: the plain
    layers. Equal seeds give equal weights, whatever the mode; experts differ per rank."""

    def __init__(self, shape: Shape, rank: int, imbalance: float, move_every: int, ideal: bool,
                 balanced: bool, seed: int, length: int, **balancer_options: object) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(shape.vocabulary, shape.hidden)
        self.position = nn.Parameter(torch.randn(length, shape.hidden) * 0.02)
        self.gates = [HeldGate(shape.hidden, shape.experts, shape.top_k, shape.ranks, imbalance,
                               move_every, layer, ideal) for layer in range(shape.layers)]
        experts = [[Expert(shape.hidden, shape.ffn) for _ in range(shape.experts)]
                   for _ in range(shape.layers)]
        own = slice(rank * shape.experts // shape.ranks, (rank + 1) * shape.experts // shape.ranks)
        self.balancer: Balancer | None = None
        if balanced:
            self.balancer = ultraep.torch.make_balancer(experts[0][own], layers=shape.layers,
                                                        **balancer_options)
        self.blocks = nn.ModuleList(
            Block(shape, ultraep.torch.BalancedMoE(gate, experts[layer][own], self.balancer,
                                                   layer=layer))
            for layer, gate in enumerate(self.gates))
        self.norm = nn.LayerNorm(shape.hidden)
        self.head = nn.Linear(shape.hidden, shape.vocabulary, bias=False)

    def moes(self) -> list[ultraep.torch.BalancedMoE]:
        return [block.moe for block in self.blocks]

    def expert_parameters(self) -> list[nn.Parameter]:
        """Of this rank's experts: no other rank has them."""
        return [p for moe in self.moes() for p in moe.experts.parameters()]

    def shared_parameters(self) -> list[nn.Parameter]:
        """Equal on all ranks: their gradients are averaged."""
        own = {id(p) for p in self.expert_parameters()}
        return [p for p in self.parameters() if id(p) not in own]

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))
