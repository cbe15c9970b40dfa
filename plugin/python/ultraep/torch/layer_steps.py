"""What a balanced layer does in each step, whoever routes and dispatches around it.

  step = steps.begin(load)                 # planned, or of the forward that is recomputed
  trainable = steps.join(step, x)          # x and the parameters behind a Join
  with step.on_slots():                    # replicas travel
      ...                                  # route, dispatch
      step.await_weights()
      out = steps.compute(step, rows, counts, trainable)
  ...                                      # combine, Restore
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ultraep.client import PlanInfo
from ultraep.errors import InvalidArgument
from ultraep.torch.balancer import Balancer
from ultraep.torch.checkpoint import record_step, recorded_step
from ultraep.torch.layout import check_alike, check_kept, layout_of, tensors_of
from ultraep.torch.nodes import Enter, Join, Leave, Pending
from ultraep.torch.step import SavedSlots, Step


class LayerSteps:
    """experts: this rank's, in order; kept, not copied. layer: its number among the balancer's
    layers. any_order: sum replica gradients as they arrive. Raises InvalidArgument when the experts
    are not alike, or not those that the balancer was made for."""

    def __init__(self, experts: nn.ModuleList, balancer: Balancer, layer: int,
                 any_order: bool) -> None:
        self.experts = experts
        self.balancer = balancer
        self.layer = layer
        self.rank = balancer.config.rank
        self.layout = layout_of(experts[0])
        self.last_plan: PlanInfo | None = None
        self._where = f"rank {self.rank}, layer {layer}"
        self._any_order = any_order
        self._started: tuple[Pending, list[Tensor]] | None = None
        check_alike(list(experts), self.layout, self.rank)
        self._check_balancer()

    def start(self, x: Tensor) -> Tensor:
        """x: the input of the block; the result is used instead. The next `join` is this one."""
        if not torch.is_grad_enabled():
            return x
        pending = Pending()
        result: Tensor
        result, *trainable = Join.apply(pending, x, *self._trainable())
        self._started = (pending, trainable)
        return result

    def begin(self, load: Tensor, microbatch: int) -> Step:
        """load: int32 [experts], this rank's row. Every rank calls it in the same order."""
        step = recorded_step(self)
        if step is None:
            mains = self._mains()
            for tensors in mains:
                check_kept(tensors, self.layout, self._where)
            plan = self.balancer.plan(load, self.layer, microbatch)
            step = Step(self.balancer, self.layout, plan, mains, self._any_order)
        record_step(self, step)  # a recompute too: of a checkpoint in it
        self.last_plan = step.plan.info
        return step

    def join(self, step: Step, x: Tensor) -> list[Tensor] | None:
        """[x, *this rank's trainable parameters] behind a Join: start's, or one of its own. None
        without gradients; a `start` before it is forgotten: a checkpoint lies between, and what is
        recomputed joins on its own."""
        started, self._started = self._started, None
        if not torch.is_grad_enabled():
            return None
        if started is None:
            return list(Join.apply(Pending(step), x, *self._trainable()))
        pending, trainable = started
        pending.step = step
        return [x, *trainable]

    def compute(self, step: Step, rows: Tensor, counts: Sequence[int],
                trainable: Sequence[Tensor] | None, *beside: Tensor) -> Tensor:
        """rows: [rows, hidden] by local physical expert: main copies, then slots; counts: rows of
        each. trainable: join's parameters. beside: more arguments of the experts, [rows, ...]. An
        expert returns its rows, alone or first of a tuple."""
        count = len(self.layout.trainable)
        mains = self._mains()
        slots = [step.slot_tensors(slot) for slot in step.used_slots]
        if trainable is None:
            return self._run(step, (rows, *beside), counts, mains + slots)
        rows, link, *given = Enter.apply(step, rows, *trainable)
        instances = [(given[i * count:(i + 1) * count] + all_of[count:])
                     for i, all_of in enumerate(mains + slots)]
        with SavedSlots(step, rows) as watched:
            out = self._run(step, (rows, *beside), counts, instances, watched)
        result: Tensor = Leave.apply(step, out, link)
        return result

    def _run(self, step: Step, inputs: Sequence[Tensor], counts: Sequence[int],
             instances: list[list[Tensor]], watched: SavedSlots | None = None) -> Tensor:
        parts = list(zip(*(torch.split(t, list(counts)) for t in inputs)))
        names = [t.name for t in self.layout.tensors]
        # A slot is computed by the code of the first expert: all experts are alike.
        modules = [*self.experts, *(self.experts[0] for _ in step.used_slots)]
        places = [*range(len(self.experts)), *(len(self.experts) + s for s in step.used_slots)]
        results = []
        for module, tensors, place in zip(modules, instances, places):
            versions = self._versions(tensors)
            saved = watched.saved if watched else 0
            result = functional_call(module, dict(zip(names, tensors)), parts[place])
            results.append(result if isinstance(result, Tensor) else result[0])
            if versions != self._versions(tensors):
                raise InvalidArgument(f"{self._where}: an expert writes to its buffers or frozen "
                                      "parameters: what a replica writes would be lost")
            if watched and watched.saved == saved and parts[place][0].requires_grad and \
                    len(parts[place][0]) and results[-1].requires_grad:
                raise InvalidArgument(f"{self._where}: an expert hides what it saves for its "
                                      "backward, as a checkpoint in it does, which would recompute "
                                      "with another expert's weights: checkpoint the layer instead")
        return torch.cat(results)

    def _versions(self, tensors: Sequence[Tensor]) -> list[int]:
        """Of what does not learn: it stays as it is while it travels."""
        kept = tensors[len(self.layout.trainable):]
        return [] if torch.is_inference_mode_enabled() else [t._version for t in kept]

    def _mains(self) -> list[list[Tensor]]:
        return [tensors_of(e, self.layout) for e in self.experts]

    def _trainable(self) -> list[Tensor]:
        count = len(self.layout.trainable)
        return [t for tensors in self._mains() for t in tensors[:count]]

    def _check_balancer(self) -> None:
        shards, gradients = self.layout.shard_bytes, self.layout.gradient_bytes
        config = self.balancer.config
        for name, needed, given in (("experts", len(self.experts) * config.ranks, config.experts),
                                    ("shard_bytes", shards, tuple(config.shard_bytes)),
                                    ("gradient_bytes", gradients, tuple(config.gradient_bytes))):
            if needed != given:
                raise InvalidArgument(f"rank {self.rank}, layer {self.layer}: the layer's {name} "
                                      f"are {needed}, the balancer's {given}")
        if not 0 <= self.layer < config.layers:
            raise InvalidArgument(f"rank {self.rank}: layer is {self.layer}, the balancer has "
                                  f"{config.layers}")
