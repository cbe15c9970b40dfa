"""A rank's balancer: joins an EP group that is a torch.distributed process group."""

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import torch
import torch.distributed as dist

from ultraep.client import Client, Config, Phase, Plan, State, Verdict
from ultraep.errors import Failed, InvalidArgument

if TYPE_CHECKING:
    from ultraep.torch.step import Step

_log = logging.getLogger("ultraep")
#: A config's fields that may differ between ranks.
_OWN_FIELDS = {"rank", "solve_deadline", "fallback_tokens", "copy_threads"}


class Balancer:
    """Plans the steps of one EP group on this rank.

    Making one is a collective call of `group`: rank 0's nonce is shared, and ranks that disagree on a
    size all raise InvalidArgument with the field, both values and the rank. The daemon may be absent:
    steps are then declined (plain placement) with one warning, until it appears.

    group: a torch.distributed process group, None: the default one; its ranks are the EP ranks.
    experts: logical experts of a layer, a multiple of the group's size.
    slots: redundant slots per rank. layers: MoE layers that use this balancer.
    shard_bytes, gradient_bytes: of one expert's tensors, and of their float32 gradients; both come
        from `ultraep.torch.expert_sizes`.
    slot_sets: places per slot; steps alternate between them, so that a layer need not
        wait for the one before it. window: steps that may be open at once.
    socket: of the daemon; default $ULTRAEP_SOCKET, else the packages' path.
    step_timeout: seconds, the framework's collective timeout. wait: seconds to wait here for the
        group to be complete; without a daemon in that time the balancer goes on declining.
    agree: whatever else all ranks must have alike, compared by its repr.
    Threads: one thread at a time makes plans; plans may be used from any thread.
    """

    def __init__(self, group: Any = None, *, experts: int, shard_bytes: Sequence[int],
                 gradient_bytes: Sequence[int] = (), slots: int = 2, layers: int = 1,
                 slot_sets: int = 2, window: int = 2, domain_size: int = 0, name: str = "ultraep",
                 socket: str | None = None, step_timeout: float = 600.0,
                 solve_deadline: float = 0.0, fallback_tokens: int = 0, copy_threads: int = 0,
                 wait: float = 0.0, agree: object = None) -> None:
        self.group = group
        nonce = [os.urandom(16)]
        dist.broadcast_object_list(nonce, group=group, group_src=0)
        self.config = Config(
            name=name, nonce=nonce[0], rank=dist.get_rank(group), ranks=dist.get_world_size(group),
            experts=experts, slots=slots, layers=layers, window=window, slot_sets=slot_sets,
            domain_size=domain_size, training=bool(gradient_bytes),
            shard_bytes=tuple(shard_bytes), gradient_bytes=tuple(gradient_bytes),
            step_timeout=step_timeout, solve_deadline=solve_deadline,
            fallback_tokens=fallback_tokens, copy_threads=copy_threads)
        _check_agreement(self.config, agree, group)
        self._sequence = 0
        self._users: WeakValueDictionary[int, Step] = WeakValueDictionary()  # by slot set
        self._closed = False
        self._said: Phase | None = None
        self._client = Client(socket)
        try:
            self._client.join(self.config, wait)
        except TimeoutError as e:  # it goes on joining in the background
            _log.info("%s", e)

    @property
    def experts_per_rank(self) -> int:
        return self.config.experts // self.config.ranks

    @property
    def physical_per_rank(self) -> int:
        """Main copies and slots of one rank: physical id = rank * this + local."""
        return self.experts_per_rank + self.config.slots

    def state(self) -> State:
        return self._client.state()

    def plan(self, load: torch.Tensor, layer: int = 0, microbatch: int = 0) -> Plan:
        """Submits this rank's row and waits for the step's verdict.

        load: int32 [experts] on the CPU, tokens this rank routes to each logical expert (counts of
        2^31 and more: the same bits). Every rank calls it for every step in the same order, also
        with no tokens. Raises Failed when a step is lost to a rank that could not follow a plan.
        """
        if load.dtype != torch.int32 or load.shape != (self.config.experts,) or \
                load.device.type != "cpu" or not load.is_contiguous():
            raise InvalidArgument(
                f"rank {self.config.rank}: load is {load.dtype} {list(load.shape)} on "
                f"{load.device}, must be contiguous torch.int32 [{self.config.experts}] on the CPU")
        if self._closed:
            raise InvalidArgument(f"rank {self.config.rank}: this balancer is closed")
        sequence, experts = self._sequence, self.config.experts
        try:
            self._client.submit(sequence, layer, microbatch, load.data_ptr(), experts)
        except Failed:  # of an earlier step. This one is lost with it, its number too: others may
            self._client.submit(sequence, layer, microbatch, load.data_ptr(), experts)
            self._sequence += 1  # hear of it later, with theirs submitted
            self._client.await_verdict(sequence)
            raise
        self._sequence += 1  # not before: a refused row is no step
        plan = self._client.await_verdict(sequence)
        if plan.info.verdict is Verdict.DECLINED or self._said not in (None, Phase.OPEN):
            self._say_phase()
        return plan

    def claim_slot_set(self, step: "Step") -> int:
        """The set for the step's streams and restores: a function of its sequence, so that ranks agree
        also after failures that only some of them met. Whoever had the set last and never released it
        has lost its backward to an error."""
        slot_set = step.plan.info.sequence % self.config.slot_sets
        before = self._users.get(slot_set)
        if before is not None and before is not step:
            before.abandon()
        self._users[slot_set] = step
        return slot_set

    def close(self) -> None:
        """Leaves the group. The others go on without plans. Kept plans can still be routed, but not
        streamed: run the last backward before."""
        self._closed = True
        self._client.close()

    def __deepcopy__(self, memo: Any) -> "Balancer":
        return self  # a copied model (an average of weights, say) is still this rank

    def _say_phase(self) -> None:
        """One warning when balancing is off for a reason an operator should know, and one line when
        it is on again."""
        state = self.state()
        if state.phase is self._said:
            return
        before, self._said = self._said, state.phase
        if state.phase in (Phase.DETACHED, Phase.REFUSED):
            goes_on = ("" if state.phase is Phase.REFUSED else
                       ", and goes on trying to reach the daemon")
            warnings.warn(f"ultraep: rank {self.config.rank} uses the plain placement{goes_on}: "
                          f"{state.text}", RuntimeWarning, stacklevel=_callers_level())
        elif state.phase is Phase.OPEN and before is not None:
            _log.info("ultraep: rank %d: steps are planned", self.config.rank)


def _callers_level() -> int:
    """For warnings.warn: the first frame that is neither ours nor torch's."""
    own = tuple(os.path.dirname(os.path.dirname(os.path.abspath(f)))
                for f in (__file__, torch.__file__))
    own = (own[0], os.path.join(own[1], "torch"))
    frame, level = sys._getframe(1), 1
    while frame.f_back and frame.f_code.co_filename.startswith(own):
        frame, level = frame.f_back, level + 1
    return level


def _check_agreement(config: Config, agree: object, group: Any) -> None:
    everyone: list[Config] = [config] * config.ranks
    dist.all_gather_object(everyone, config, group=group)
    others = [""] * config.ranks
    dist.all_gather_object(others, repr(agree), group=group)
    for field in fields(Config):
        if field.name in _OWN_FIELDS:
            continue
        for rank, other in enumerate(everyone):
            expected, found = getattr(everyone[0], field.name), getattr(other, field.name)
            if expected != found:
                raise InvalidArgument(f"the EP group disagrees on {field.name}: rank 0 has "
                                      f"{expected}, rank {rank} has {found}")
    for rank, found_text in enumerate(others):
        if found_text != others[0]:
            raise InvalidArgument(f"the EP group disagrees on its experts: rank 0 has {others[0]}, "
                                  f"rank {rank} has {found_text}")
