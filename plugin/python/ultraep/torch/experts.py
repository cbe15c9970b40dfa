"""Experts with row-independent arithmetic: a row's result does not depend on its neighbours.

A matrix product may sum a row's terms in another order when it has more or fewer rows. A replica sees
other rows than the main copy would have, so plain products give the same result up to rounding;
products over tiles of one fixed shape give the same bits.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class _TiledLinear(torch.autograd.Function):

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, tile: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.tile = tile
        return _products(x, weight.t(), tile)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        return _products(grad, weight, ctx.tile), grad.t() @ x, None


def _products(x: Tensor, matrix: Tensor, tile: int) -> Tensor:
    out = x.new_empty((len(x), matrix.shape[1]))
    whole = len(x) // tile * tile
    for start in range(0, whole, tile):
        torch.mm(x[start:start + tile], matrix, out=out[start:start + tile])
    if whole < len(x):
        last = x.new_zeros((tile, x.shape[1]))
        last[:len(x) - whole] = x[whole:]
        product = x.new_empty((tile, matrix.shape[1]))  # out=, as above: else autocast sees this one
        out[whole:] = torch.mm(last, matrix, out=product)[:len(x) - whole]
    return out


def tiled_linear(x: Tensor, weight: Tensor, tile: int = 64) -> Tensor:
    """x [rows, in] times weight [out, in] transposed, in tiles of `tile` rows, the last one padded:
    every product has the same shape. The gradient of x as well; that of weight is one product."""
    result: Tensor = _TiledLinear.apply(x, weight, tile)
    return result


class TiledExpert(nn.Module):
    """A feed-forward expert of two matrices with GELU between, row-independent.

    x: [rows, hidden] -> [rows, hidden]. `rows_are_independent` checks it on the machine at hand.
    """

    def __init__(self, hidden: int, ffn: int, tile: int = 64) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.empty(ffn, hidden))
        self.down = nn.Parameter(torch.empty(hidden, ffn))
        self.tile = tile
        for weight in (self.up, self.down):
            nn.init.kaiming_uniform_(weight, a=5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return tiled_linear(_gelu(tiled_linear(x, self.up, self.tile)), self.down, self.tile)


def _gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def rows_are_independent(expert: nn.Module, hidden: int, rows: int = 200, trials: int = 8) -> bool:
    """Does the expert give the same bits for a row wherever it stands and whatever stands beside it?
    A trial, not a proof: the library's products decide. With many threads it may split one product
    among them, differently for its first and last rows: TiledExpert passed with one thread on AMD and
    Intel, with 16 threads on Intel it did not."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, hidden, generator=generator)
    with torch.no_grad():
        expected = expert(x)
        for _ in range(trials):
            chosen = torch.randperm(rows, generator=generator)
            chosen = chosen[:int(torch.randint(1, rows + 1, (1,), generator=generator))]
            if not torch.equal(expert(x[chosen]), expected[chosen]):
                return False
    return True
