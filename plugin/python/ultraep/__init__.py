"""ultraep: exact-load expert balancing for Mixture-of-Experts training and serving.

`Balancer` joins an EP group, `ultraep.torch` has the layer and its pieces, `ultraep.client` the plain
binding of the C ABI for other frameworks.
"""

from typing import TYPE_CHECKING, Any

from ultraep import _abi
from ultraep.client import Client, Config, Phase, Plan, PlanInfo, Replica, State, Verdict
from ultraep.errors import (Failed, InternalError, InvalidArgument, Refused, TimedOut,
                            UltraepError)

if TYPE_CHECKING:
    from ultraep.torch.balancer import Balancer

__version__: str = _abi.lib.ultraep_version().decode()
__all__ = [
    "Balancer", "Client", "Config", "Failed", "InternalError", "InvalidArgument", "Phase", "Plan",
    "PlanInfo", "Refused", "Replica", "State", "TimedOut", "UltraepError", "Verdict"
]


def __getattr__(name: str) -> Any:  # torch is needed by who uses it, not by `import ultraep`
    if name == "Balancer":
        from ultraep.torch.balancer import Balancer
        return Balancer
    raise AttributeError(f"module 'ultraep' has no attribute '{name}'")
