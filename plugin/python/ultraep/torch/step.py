"""One layer call of one microbatch: its plan, the slots it uses, and its part of the backward.

A slot's memory belongs to the step from `await_weights` to `release`. It is restored for the backward,
perhaps elsewhere: what autograd saves of a slot's weights is therefore a name (SlotRef), not an
address, see `SavedSlots`.
"""

import ctypes
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ultraep.client import Plan
from ultraep.errors import InvalidArgument, UltraepError
from ultraep.torch.balancer import Balancer
from ultraep.torch.layout import ExpertLayout, TensorLayout, check_kept


class Step:
    """balancer, layout: of the layer. mains: [experts / ranks][tensors] of this rank's experts."""

    def __init__(self, balancer: Balancer, layout: ExpertLayout, plan: Plan,
                 mains: Sequence[Sequence[Tensor]], any_order: bool) -> None:
        self.balancer = balancer
        self.layout = layout
        self.plan = plan
        self._mains = mains
        self._any_order = any_order
        self._rank = balancer.config.rank
        self._moves = bool(plan.info.replicas) and bool(layout.tensors)
        #: Slot numbers in use on this rank, ascending; the same for the life of the plan.
        self.used_slots = sorted(r.slot for r in plan.info.replicas if r.rank == self._rank)
        self._slots: dict[int, list[Tensor]] = {}
        self._sums: dict[int, Tensor] = {}  # trainable main number -> its gradient while it is summed
        self.streamed = False

    # Weights

    @contextmanager
    def on_slots(self) -> Iterator[None]:
        """The replicas travel from here; they are there after await_weights, and released at the end
        unless they were there before: restored for a backward that recomputes."""
        if self.streamed:
            yield
            return
        self.stream()
        try:
            yield
        except BaseException:
            with suppress(UltraepError):  # what went wrong first is what matters
                self.release()
            raise
        self.release()

    def stream(self) -> None:
        """Starts the sends, of the forward or of a restore."""
        if self._moves:
            for tensors in self._mains:  # a restore comes later
                check_kept(tensors, self.layout, f"rank {self._rank}")
            self.plan.stream(self.balancer.claim_slot_set(self),
                             [t.data_ptr() for expert in self._mains for t in expert])
        self.streamed = True

    def await_weights(self) -> None:
        self.plan.await_weights()
        self._slots = {}
        for slot in self.used_slots:
            found = self.plan.slot(slot)
            assert found is not None
            self._slots[slot] = [
                from_address(address, t.shape, t.dtype)
                for address, t in zip(found[1], self.layout.tensors)
            ]

    def slot_tensors(self, slot: int) -> list[Tensor]:
        """The replica's tensors, in shared memory; valid from await_weights to release."""
        if slot not in self._slots:
            raise InvalidArgument(
                f"rank {self._rank}: slot {slot} of step {self.plan.info.sequence} is not streamed: "
                "its weights are used outside of the layer's forward and backward")
        return self._slots[slot]

    def release(self) -> None:
        self._slots = {}
        self.streamed = False
        self.plan.release()

    def abandon(self) -> None:
        """Of one whose backward never came to its end: the others wait for its gradients."""
        if self.streamed:
            self.plan.free()

    # Gradients

    @property
    def trains(self) -> bool:
        return bool(self.layout.trainable)

    def prepare_gradients(self) -> None:
        if self.trains:
            if self._moves:  # of a backward that did not reach the Join: nobody wants its sums
                self.plan.await_gradients()
                self._sums = {}
            self.plan.prepare_gradients(zero=False)  # end_backward writes all of it

    def end_backward(self, mains: Sequence[Tensor | None],
                     slots: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Hands over this rank's gradients, starts the sums of its own experts' replicas, releases.

        mains: [experts / ranks x trainable], slots: [used slots x trainable]. Returns mains without
        those that are being summed; `join` gives these.
        """
        kept = list(mains)
        if self._moves and self.trains:
            self._write_slot_gradients(slots)
            self._start_sums(kept)
        self.release()
        return kept

    def join(self, mains: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Waits for the sums. Returns this rank's complete gradients, mains as in end_backward."""
        complete = list(mains)
        if self._moves and self.trains:  # also without sums of its own: a next backward may follow
            self.plan.await_gradients()
            for number, total in self._sums.items():
                complete[number] = total.to(self._trainable(number).dtype)
            self._sums = {}
        return complete

    def _write_slot_gradients(self, gradients: Sequence[Tensor | None]) -> None:
        given = iter(gradients)
        for slot in self.used_slots:
            found = self.plan.gradient(slot)
            assert found is not None
            for address, t in zip(found[1], self.layout.trainable):
                view = from_address(address, t.shape, torch.float32)
                gradient = next(given)
                if gradient is None:
                    view.zero_()
                else:
                    view.copy_(gradient)

    def _start_sums(self, mains: list[Tensor | None]) -> None:
        per_rank = self.balancer.experts_per_rank
        parts = len(self.layout.trainable)
        bfloat16 = all(t.dtype == torch.bfloat16 for t in self.layout.trainable)
        kind = torch.bfloat16 if bfloat16 else torch.float32
        for expert in {r.expert for r in self.plan.info.replicas}:
            if expert // per_rank != self._rank:
                continue
            first = expert % per_rank * parts
            for number in range(first, first + parts):
                gradient = mains[number]
                shape = self._trainable(number).shape
                # A copy: autograd may have handed the same tensor to others.
                self._sums[number] = (torch.zeros(shape, dtype=kind) if gradient is None else
                                      gradient.to(kind, copy=True).contiguous())
                mains[number] = None
        # The others' addresses are asked for and never used.
        unused = next(iter(self._sums.values()), torch.zeros(1, dtype=kind)).data_ptr()
        addresses = [
            self._sums[n].data_ptr() if n in self._sums else unused for n in range(per_rank * parts)
        ]
        self.plan.reduce(addresses, bfloat16, self._any_order)

    def _trainable(self, number: int) -> TensorLayout:
        return self.layout.trainable[number % len(self.layout.trainable)]


@dataclass(frozen=True)
class SlotRef:
    """A tensor that autograd saved and that lies in a slot: where in it."""

    slot: int
    part: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    def tensor(self, step: Step) -> Tensor:
        return step.slot_tensors(self.slot)[self.part].as_strided(self.size, self.stride,
                                                                  self.offset)


class SavedSlots:
    """What is saved for backward in here of the step's slots is saved as a SlotRef, everything else
    as it would be outside (hooks of an enclosing checkpoint or offload are called)."""

    def __init__(self, step: Step, rows: Tensor) -> None:
        """rows: the experts' input."""
        self._step = step
        self._rows = rows.untyped_storage().data_ptr()
        self._place = {
            t.untyped_storage().data_ptr(): (slot, part)
            for slot in step.used_slots for part, t in enumerate(step.slot_tensors(slot))
        }
        self._outer = torch._C._autograd._top_saved_tensors_default_hooks(False)
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack)
        self.saved = 0  #: tensors so far, the rows apart

    def __enter__(self) -> "SavedSlots":
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.__exit__(*error)

    def _pack(self, tensor: Tensor) -> Any:
        address = tensor.untyped_storage().data_ptr()
        self.saved += tensor.numel() > 0 and address != self._rows
        found = self._place.get(address)
        if found is not None:
            return SlotRef(*found, tuple(tensor.size()), tensor.stride(),
                           int(tensor.storage_offset()))
        if self._outer:
            return self._outer[0](tensor)
        return tensor, tensor._version  # hooks switch off autograd's own check

    def _unpack(self, packed: Any) -> Tensor:
        if isinstance(packed, SlotRef):
            return packed.tensor(self._step)
        if self._outer:
            result: Tensor = self._outer[1](packed)
            return result
        tensor, version = packed
        if tensor._version != version:
            raise RuntimeError(
                f"rank {self._step.balancer.config.rank}: a tensor that the experts' backward needs "
                f"has been modified by an inplace operation: it is at version {tensor._version}, "
                f"expected {version}")
        saved: Tensor = tensor
        return saved


def from_address(address: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A contiguous CPU tensor on memory that someone else owns."""
    count = math.prod(shape)
    if count == 0:
        return torch.empty(tuple(shape), dtype=dtype)
    memory = (ctypes.c_char * (count * dtype.itemsize)).from_address(address)
    return torch.frombuffer(memory, dtype=dtype, count=count).view(tuple(shape))
