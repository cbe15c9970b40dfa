"""The C ABI of libultraep (plugin/api/ultraep.h) in ctypes: structs, constants, prototypes.

Every call releases the GIL while it runs. `check` turns a status into an exception.
"""

import ctypes
import os
from ctypes import POINTER, c_char, c_char_p, c_int, c_int32, c_int64, c_uint8, c_uint32, c_uint64
from ctypes import c_void_p
from typing import Any

from ultraep import errors

MAX_SHARDS = 8
NO_EXPERT = 0xFFFFFFFF
FLOAT32, BFLOAT16 = 0, 1
TIMEOUT = 3


class AttachOptions(ctypes.Structure):
    _fields_ = [("struct_size", c_uint32), ("socket_path", c_char_p)]


class GroupConfig(ctypes.Structure):
    _fields_ = [("struct_size", c_uint32), ("rank", c_uint32), ("group_name", c_char_p),
                ("nonce", c_uint8 * 16), ("ranks", c_uint32), ("experts", c_uint32),
                ("slots", c_uint32), ("layers", c_uint32), ("window", c_uint32),
                ("slot_sets", c_uint32), ("domain_size", c_uint32), ("training", c_uint32),
                ("shard_count", c_uint32), ("gradient_count", c_uint32),
                ("shard_bytes", c_uint64 * MAX_SHARDS), ("gradient_bytes", c_uint64 * MAX_SHARDS),
                ("step_timeout_ns", c_uint64), ("solve_deadline_ns", c_uint64),
                ("next_sequence", c_uint64), ("fallback_tokens", c_uint64),
                ("copy_threads", c_uint32), ("memory", c_uint32), ("device", c_int32),
                ("stream_blocks", c_uint32), ("reduce_blocks", c_uint32), ("unused", c_uint32)]


class Memory(ctypes.Structure):
    _fields_ = [("weights_per_slot", c_uint64), ("flags_per_slot", c_uint64),
                ("gradients_per_slot", c_uint64), ("slots_per_rank", c_uint64),
                ("slots_of_rank", c_uint64), ("group", c_uint64)]


class ClientInfo(ctypes.Structure):
    _fields_ = [("phase", c_int), ("generation", c_uint64), ("text", c_char * 512),
                ("generations", c_uint64), ("last_gap_ns", c_uint64)]


class Replica(ctypes.Structure):
    _fields_ = [("expert", c_uint32), ("rank", c_uint32), ("slot", c_uint32), ("parent", c_int32),
                ("tokens", c_uint64)]


class PlanInfo(ctypes.Structure):
    _fields_ = [("verdict", c_int), ("layer", c_uint32), ("microbatch", c_uint32),
                ("replica_count", c_uint32), ("sequence", c_uint64), ("total_tokens", c_uint64),
                ("peak_before", c_uint64), ("peak", c_uint64), ("lower_bound", c_uint64),
                ("solve_ns", c_uint64), ("operation", c_uint64), ("slot_set", c_uint32),
                ("unused", c_uint32), ("handle_bytes", c_uint64)]


class StreamStats(ctypes.Structure):
    _fields_ = [(name, c_uint64) for name in
                ("bytes", "copy_ns", "wait_ns", "relayed_bytes", "transfers", "loaded_bytes",
                 "send_ns", "arrive_ns")]


class ReduceStats(ctypes.Structure):
    _fields_ = [(name, c_uint64) for name in
                ("bytes", "replicas", "add_ns", "wait_ns", "prepare_ns", "reduce_ns")]


_PROTOTYPES: dict[str, list[Any]] = {
    "attach": [POINTER(AttachOptions), POINTER(c_void_p)],
    "join": [c_void_p, POINTER(GroupConfig), c_int64],
    "memory_of": [POINTER(GroupConfig), POINTER(Memory)],
    "client_state": [c_void_p, POINTER(ClientInfo)],
    "count_load": [c_void_p, c_uint64, c_uint32, c_void_p],
    "submit_load": [c_void_p, c_uint64, c_uint32, c_uint32, c_void_p, c_uint32],
    "await_verdict": [c_void_p, c_uint64, c_int64, POINTER(c_void_p)],
    "plan_get_info": [c_void_p, POINTER(PlanInfo)],
    "plan_get_replicas": [c_void_p, POINTER(Replica), c_uint32],
    "route": [c_void_p, c_void_p, c_uint64, c_uint32, c_void_p],
    "stream_weights": [c_void_p, c_uint32, POINTER(c_void_p)],
    "await_weights": [c_void_p, c_int64],
    "plan_get_slot": [c_void_p, c_uint32, POINTER(c_uint32), POINTER(c_void_p)],
    "release": [c_void_p, c_int64],
    "plan_get_stream_stats": [c_void_p, POINTER(StreamStats)],
    "prepare_gradients": [c_void_p, c_int, c_int64],
    "plan_get_gradient": [c_void_p, c_uint32, POINTER(c_uint32), POINTER(c_void_p)],
    "reduce_gradients": [c_void_p, POINTER(c_void_p), c_uint32, c_int],
    "await_gradients": [c_void_p, c_int64],
    "plan_get_reduce_stats": [c_void_p, POINTER(ReduceStats)],
    "leave": [c_void_p],
}

_ERRORS: dict[int, type[errors.UltraepError]] = {
    1: errors.InvalidArgument,
    2: errors.Refused,
    TIMEOUT: errors.TimedOut,
    4: errors.Failed,
    5: errors.InternalError,
}


def _load() -> ctypes.CDLL:
    path = os.environ.get("ULTRAEP_LIBRARY") or os.path.join(os.path.dirname(__file__), "lib",
                                                             "libultraep.so")
    try:
        library = ctypes.CDLL(path)
    except OSError as e:
        raise ImportError(f"ultraep: {e}. The wheel brings this library; from a source tree, "
                          "`pip install ./plugin/python` builds it.") from None
    for name, arguments in _PROTOTYPES.items():
        function = getattr(library, "ultraep_" + name)
        function.argtypes = arguments
        function.restype = c_int
    for name in ("plan_retain", "plan_free", "detach"):
        function = getattr(library, "ultraep_" + name)
        function.argtypes = [c_void_p]
        function.restype = None
    for name in ("last_error", "version"):
        function = getattr(library, "ultraep_" + name)
        function.argtypes = []
        function.restype = c_char_p
    return library


lib = _load()


def check(status: int) -> None:
    """Raises the exception of `status`, with the text of this thread's last call."""
    if status:
        text = lib.ultraep_last_error().decode(errors="replace")
        raise _ERRORS.get(status, errors.InternalError)(text)


def nanoseconds(seconds: float | None) -> int:
    """A timeout of the C ABI: None is the group's step timeout."""
    return -1 if seconds is None else max(0, int(seconds * 1e9))
