"""What a gate chose, counted: the load row of a step."""

import torch
from torch import Tensor

from ultraep import client
from ultraep.errors import InvalidArgument


def as_int32(ids: Tensor, experts: int) -> Tensor:
    """ids: int32 or int64, any shape, -1 = none. The same in int32, contiguous; no copy when they are
    so. Raises InvalidArgument naming the first id that is neither -1 nor an expert."""
    if ids.dtype not in (torch.int32, torch.int64) or ids.device.type != "cpu":
        raise InvalidArgument(f"ids are {ids.dtype} on {ids.device}, must be int32 or int64 on the "
                              "CPU")
    if ids.dtype == torch.int64 and ids.numel():
        low, high = ids.aminmax()
        if low < -1 or high >= experts:
            wrong = ((ids < -1) | (ids >= experts)).flatten()
            at = int(wrong.nonzero()[0])
            raise InvalidArgument(f"ids[{at}] is {ids.flatten()[at]}, must be -1 or 0..{experts - 1}")
    return ids.detach().to(torch.int32).contiguous()


def count_load(ids: Tensor, experts: int) -> Tensor:
    """ids: int32, contiguous. int32 [experts]: the row. Raises InvalidArgument as above."""
    load = torch.empty(experts, dtype=torch.int32)
    client.count_load(ids.data_ptr(), ids.numel(), experts, load.data_ptr())
    return load
