"""One rank's membership and its plans: the C ABI with Python's types. Knows no framework.

Addresses are plain integers (`tensor.data_ptr()`, `array.ctypes.data`); nothing is copied. Times are
seconds; a timeout of None is the group's step timeout.
"""

import ctypes
import enum
import time
from collections.abc import Callable, Sequence
from ctypes import byref
from dataclasses import dataclass, field
from typing import Any, get_type_hints

from ultraep import _abi
from ultraep._abi import check, lib, nanoseconds
from ultraep.errors import InvalidArgument


class Verdict(enum.IntEnum):
    """The one decision per step."""

    PLAN = 1  #: replicas as listed
    FALLBACK = 2  #: submitted, but all ranks use the main copies
    DECLINED = 3  #: not submitted (no daemon, or the group is not complete): main copies


class Phase(enum.IntEnum):
    """Where a client stands with its daemon."""

    DETACHED = 0
    JOINING = 1
    OPEN = 2
    OVER = 3
    REFUSED = 4


@dataclass(frozen=True)
class Config:
    """What the members of an EP group agree on, see `ultraep_group_config` in ultraep.h."""

    name: str
    nonce: bytes  #: 16 bytes, made by rank 0, one per job
    rank: int
    ranks: int
    experts: int  #: logical, a multiple of ranks
    slots: int  #: redundant slots per rank
    layers: int = 1
    window: int = 2
    slot_sets: int = 1
    domain_size: int = 0
    training: bool = True
    shard_bytes: Sequence[int] = ()  #: of one expert, at most 8 shards
    gradient_bytes: Sequence[int] = ()  #: of one expert's gradient in float32, at most 8 parts
    step_timeout: float = 600.0
    solve_deadline: float = 0.0  #: 0: 2 ms, or 1 s when CPUs are few
    next_sequence: int = 0
    fallback_tokens: int = 0
    copy_threads: int = 0

    def as_struct(self) -> _abi.GroupConfig:
        for name in ("shard_bytes", "gradient_bytes"):
            if len(getattr(self, name)) > _abi.MAX_SHARDS:
                raise InvalidArgument(
                    f"{name} has {len(getattr(self, name))} entries, the limit is "
                    f"{_abi.MAX_SHARDS} per expert: keep several tensors in one")
        for name, kind in get_type_hints(Config).items():  # C would take them modulo 2^32
            value = getattr(self, name)
            if kind is int and not 0 <= value < 2**32 and name != "next_sequence" or \
                    kind is float and not 0 <= value < 2**33:
                raise InvalidArgument(f"{name} is {value}, must be 0 or more"
                                      f"{' seconds' if kind is float else ''} and below 2^32")
        return _abi.GroupConfig(
            struct_size=ctypes.sizeof(_abi.GroupConfig), rank=self.rank,
            group_name=self.name.encode(), nonce=(ctypes.c_uint8 * 16)(*self.nonce),
            ranks=self.ranks, experts=self.experts, slots=self.slots, layers=self.layers,
            window=self.window, slot_sets=self.slot_sets, domain_size=self.domain_size,
            training=int(self.training), shard_count=len(self.shard_bytes),
            gradient_count=len(self.gradient_bytes),
            shard_bytes=(ctypes.c_uint64 * 8)(*self.shard_bytes),
            gradient_bytes=(ctypes.c_uint64 * 8)(*self.gradient_bytes),
            step_timeout_ns=nanoseconds(self.step_timeout),
            solve_deadline_ns=nanoseconds(self.solve_deadline), next_sequence=self.next_sequence,
            fallback_tokens=self.fallback_tokens, copy_threads=self.copy_threads)


@dataclass(frozen=True)
class Memory:
    """Shared memory of a group in bytes, see `ultraep_memory`."""

    weights_per_slot: int
    flags_per_slot: int
    gradients_per_slot: int
    slots_per_rank: int
    slots_of_rank: int
    group: int


def memory_of(config: Config) -> Memory:
    """What a group of this configuration will take. Needs neither daemon nor client."""
    memory = _abi.Memory()
    check(lib.ultraep_memory_of(byref(config.as_struct()), byref(memory)))
    return Memory(*(getattr(memory, field[0]) for field in memory._fields_))


@dataclass(frozen=True)
class State:
    phase: Phase
    generation: int
    text: str  #: why, in words
    generations: int
    last_gap: float  #: seconds from the end of the last generation to the present one's opening


@dataclass(frozen=True)
class Replica:
    expert: int  #: logical
    rank: int
    slot: int
    parent: int  #: -1: from the main copy, else index of an earlier replica
    tokens: int  #: quota


@dataclass(frozen=True)
class PlanInfo:
    """Tokens are 0 unless the verdict is PLAN."""

    verdict: Verdict
    sequence: int
    layer: int
    microbatch: int
    total_tokens: int
    peak_before: int  #: tokens of the fullest rank without replicas
    peak: int  #: the same with this plan
    lower_bound: int
    solve_ns: int
    replicas: tuple[Replica, ...] = field(default=())

    def imbalance(self, ranks: int) -> tuple[float, float] | None:
        """(before, after) as max over mean of tokens per rank; None without a plan."""
        if self.verdict is not Verdict.PLAN or not self.total_tokens:
            return None
        return (self.peak_before * ranks / self.total_tokens, self.peak * ranks / self.total_tokens)


class Plan:
    """A handle of one step's plan; freed with the last reference to it.

    The order of calls is that of ultraep.h: stream, await_weights, slot, release; in training once
    more for the backward, with prepare_gradients, gradient, reduce and await_gradients. One thread
    at a time.
    """

    def __init__(self, handle: int, config: Config) -> None:
        self._handle: int | None = handle
        self._config = config
        self.info = self._read_info()

    def __del__(self) -> None:
        self.free()

    def free(self) -> None:
        """Gives the handle back, at once; other ranks may be told that they wait in vain."""
        handle, self._handle = getattr(self, "_handle", None), None
        if handle:
            lib.ultraep_plan_free(handle)

    def _read_info(self) -> PlanInfo:
        info = _abi.PlanInfo()
        check(lib.ultraep_plan_get_info(self._handle, byref(info)))
        found = (_abi.Replica * info.replica_count)()
        check(lib.ultraep_plan_get_replicas(self._handle, found, info.replica_count))
        return PlanInfo(
            Verdict(info.verdict), info.sequence, info.layer, info.microbatch, info.total_tokens,
            info.peak_before, info.peak, info.lower_bound, info.solve_ns,
            tuple(Replica(r.expert, r.rank, r.slot, r.parent, r.tokens) for r in found))

    def route(self, ids: int, tokens: int, top_k: int, physical: int) -> None:
        """ids, physical: addresses of int32 [tokens][top_k], may be the same; -1 stays -1."""
        check(lib.ultraep_route(self._handle, ids, tokens, top_k, physical))

    def stream(self, slot_set: int, main_weights: Sequence[int]) -> None:
        """Starts this rank's sends. main_weights: addresses, [experts / ranks][shards]."""
        check(lib.ultraep_stream_weights(self._handle, slot_set, _pointers(main_weights)))

    def await_weights(self, timeout: float | None = None) -> None:
        self._wait(lib.ultraep_await_weights, timeout)

    def slot(self, slot: int) -> tuple[int, list[int]] | None:
        """(logical expert, addresses of its shards) in this rank's slot, or None: it is empty."""
        return self._in_slot(lib.ultraep_plan_get_slot, slot, len(self._config.shard_bytes))

    def release(self, timeout: float | None = None) -> None:
        self._wait(lib.ultraep_release, timeout)

    def prepare_gradients(self, zero: bool = True, timeout: float | None = None) -> None:
        check(lib.ultraep_prepare_gradients(self._handle, int(zero), nanoseconds(timeout)))

    def gradient(self, slot: int) -> tuple[int, list[int]] | None:
        """(logical expert, addresses of its gradient's parts, float32), or None."""
        return self._in_slot(lib.ultraep_plan_get_gradient, slot, len(self._config.gradient_bytes))

    def reduce(self, main_gradients: Sequence[int], bfloat16: bool = False,
               any_order: bool = False) -> None:
        """main_gradients: addresses, [experts / ranks][parts], all float32 or all bfloat16."""
        kind = _abi.BFLOAT16 if bfloat16 else _abi.FLOAT32
        check(lib.ultraep_reduce_gradients(self._handle, _pointers(main_gradients), kind,
                                           int(any_order)))

    def await_gradients(self, timeout: float | None = None) -> None:
        self._wait(lib.ultraep_await_gradients, timeout)

    def stream_stats(self) -> dict[str, int]:
        """Of the last stream or restore, after release; see `ultraep_stream_stats`."""
        return self._stats(_abi.StreamStats(), lib.ultraep_plan_get_stream_stats)

    def reduce_stats(self) -> dict[str, int]:
        """Of the last reduction, after await_gradients; see `ultraep_reduce_stats`."""
        return self._stats(_abi.ReduceStats(), lib.ultraep_plan_get_reduce_stats)

    def _wait(self, call: Any, timeout: float | None) -> None:
        _wait(lambda ns: call(self._handle, ns), timeout, self._config)

    def __reduce__(self) -> Any:
        raise TypeError("a Plan belongs to its process: it cannot be copied or pickled")

    def _stats(self, stats: Any, call: Any) -> dict[str, int]:
        check(call(self._handle, byref(stats)))
        return {name: getattr(stats, name) for name, _ in stats._fields_}

    def _in_slot(self, call: Any, slot: int, parts: int) -> tuple[int, list[int]] | None:
        expert = ctypes.c_uint32()
        addresses = (ctypes.c_void_p * _abi.MAX_SHARDS)()
        check(call(self._handle, slot, byref(expert), addresses))
        if expert.value == _abi.NO_EXPERT:
            return None
        return expert.value, [addresses[i] or 0 for i in range(parts)]


class Client:
    """One rank's client. An absent daemon is no error: it keeps trying in the background."""

    def __init__(self, socket: str | None = None) -> None:
        """socket: default $ULTRAEP_SOCKET, else the packages' path."""
        options = _abi.AttachOptions(ctypes.sizeof(_abi.AttachOptions),
                                     socket.encode() if socket else None)
        handle = ctypes.c_void_p()
        check(lib.ultraep_attach(byref(options), byref(handle)))
        self._handle = handle.value
        self._config: Config | None = None

    def __del__(self) -> None:
        self.close()

    def join(self, config: Config, timeout: float = 0.0) -> None:
        """timeout 0 returns at once; else waits for the group to be complete."""
        self._config = config
        check(lib.ultraep_join(self._handle, byref(config.as_struct()), nanoseconds(timeout)))

    def submit(self, sequence: int, layer: int, microbatch: int, row: int, experts: int) -> None:
        """row: address of uint32 [experts]."""
        check(lib.ultraep_submit_load(self._handle, sequence, layer, microbatch, row, experts))

    def await_verdict(self, sequence: int, timeout: float | None = None) -> Plan:
        if self._config is None:
            raise InvalidArgument("the client has not joined a group")
        handle = ctypes.c_void_p()
        _wait(lambda ns: lib.ultraep_await_verdict(self._handle, sequence, ns, byref(handle)),
              timeout, self._config)
        assert handle.value
        return Plan(handle.value, self._config)

    def state(self) -> State:
        info = _abi.ClientInfo()
        check(lib.ultraep_client_state(self._handle, byref(info)))
        return State(Phase(info.phase), info.generation, info.text.decode(errors="replace"),
                     info.generations, info.last_gap_ns * 1e-9)

    def leave(self) -> None:
        """Ends the membership; open steps resolve at once, plans stay valid but for new streams."""
        check(lib.ultraep_leave(self._handle))

    def __reduce__(self) -> Any:
        raise TypeError("a Client belongs to its process: it cannot be copied or pickled")

    def close(self) -> None:
        handle, self._handle = getattr(self, "_handle", None), None
        if handle:
            lib.ultraep_detach(handle)


def count_load(ids: int, count: int, experts: int, row: int) -> None:
    """ids: address of int32 [count], -1 = none. row: address of uint32 [experts], overwritten."""
    check(lib.ultraep_count_load(ids, count, experts, row))


#: Seconds of a wait after which Python looks for signals, so that Ctrl-C is heard.
_SLICE = 0.25


def _wait(call: Callable[[int], int], timeout: float | None, config: Config) -> None:
    """call(ns) is one of the ABI's waits, which may be repeated. By itself it ends at the group's
    step timeout, counted from the issue of what is waited for."""
    end = time.monotonic() + (config.step_timeout + 1 if timeout is None else timeout)
    while True:
        left = max(0.0, end - time.monotonic())
        status = call(nanoseconds(min(left, _SLICE)))
        if status != _abi.TIMEOUT or left <= _SLICE:
            return check(status)


def _pointers(addresses: Sequence[int]) -> Any:
    return (ctypes.c_void_p * len(addresses))(*addresses)
