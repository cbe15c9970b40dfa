"""The functional pieces as operators: their contracts, and layers made of them in one graph."""

import gc
import os
import tempfile
import unittest

import torch
import torch.distributed as dist
from torch import nn
from torch.library import opcheck

import ultraep.torch as ut
from ranks import (DaemonTest, EXPERTS, HIDDEN, inputs, make_experts, make_layers, skewed_gate,
                   worst)
from ultraep import InvalidArgument
from ultraep.torch import ops

SLOTS, TOKENS = 2, 48
#: What a run with side effects can be checked for: a second run is another step.
ONCE = ("test_schema", "test_autograd_registration", "test_faketensor")


@torch.library.custom_op("ultraep_test::exchange", mutates_args=())
def exchange(parts: torch.Tensor) -> torch.Tensor:
    """parts: [ranks, ...], part r to rank r."""
    received = torch.empty_like(parts)
    dist.all_to_all_single(received, parts.contiguous())
    return received


exchange.register_fake(lambda parts: torch.empty_like(parts))
exchange.register_autograd(lambda ctx, grad: exchange(grad.contiguous()))


class OwnLayer(nn.Module):
    """A layer as someone else would write it: stacked experts, static shapes, every pair sent to
    the rank of its physical expert and nothing to the others."""

    def __init__(self, gate, experts, balancer, layer=0, scale=None):
        super().__init__()
        self.up = nn.Parameter(torch.stack([e.up.detach() for e in experts]))
        self.down = nn.Parameter(torch.stack([e.down.detach() for e in experts]))
        self.gate, self.layer, self.scale = gate, layer, scale
        self.key = ops.register(balancer)
        self.experts, self.slots = balancer.config.experts, balancer.config.slots
        self.ranks, self.per_rank = balancer.config.ranks, balancer.physical_per_rank

    def forward(self, x, microbatch=0):
        weights = [self.up, self.down]
        if self.scale:  # not parameters: they are the compiler's to place
            weights = [w * self.scale for w in weights]
        scores, ids = self.gate(x)
        load = ops.count_load(ids, self.experts)
        ticket = ops.plan(load, self.key, self.layer, microbatch)
        ticket, flight = ops.stream(ticket, weights)
        physical = ops.route(ticket, ids).flatten()
        here = (physical // self.per_rank).unsqueeze(0) == torch.arange(self.ranks).unsqueeze(1)
        pairs = x.repeat_interleave(ids.shape[1], dim=0)
        rows = exchange(torch.where(here.unsqueeze(-1), pairs, 0.0)).flatten(0, 1)
        local = exchange(torch.where(here, physical % self.per_rank, -1)).flatten()
        rows, replicas = ops.await_weights(ticket, flight, rows, weights, self.slots)
        up, down = (torch.cat(both) for both in zip(weights, replicas))
        out = torch.einsum("rh,ifh->irf", rows, up)
        out = torch.nn.functional.gelu(out, approximate="tanh")
        out = torch.einsum("irf,ihf->irh", out, down)
        mine = local.unsqueeze(0) == torch.arange(self.per_rank).unsqueeze(1)
        out = torch.where(mine.unsqueeze(-1), out, 0.0).sum(0)
        out = exchange(out.view(self.ranks, -1, x.shape[1])).sum(0)
        return (out.view(*ids.shape, -1) * scores.unsqueeze(-1)).sum(1)


class Model(nn.Module):
    """Blocks of something and a layer."""

    def __init__(self, layers):
        super().__init__()
        torch.manual_seed(7)
        self.layers = nn.ModuleList(layers)
        self.before = nn.ModuleList(nn.Linear(HIDDEN, HIDDEN) for _ in layers)

    def forward(self, x):
        for before, layer in zip(self.before, self.layers):
            x = x + layer(torch.tanh(before(x)))
        return x


def run(function, model, x):
    """(y, gradients of x and of all parameters)"""
    y = function(x)
    weight = torch.linspace(-1, 1, y.shape[-1])
    return [y.detach(), *torch.autograd.grad((y * weight).sum(), [x, *model.parameters()])]


def balancer_of(experts, socket, **options):
    return ut.make_balancer(experts, socket=socket, slots=SLOTS, wait=20.0, step_timeout=20.0,
                            **options)


def same_as_balanced_moe(rank, ranks, socket):
    """Eager pieces against BalancedMoE, a layer each step; also a rank without tokens."""
    _, moe = make_layers(rank, ranks, socket)
    experts = make_experts(rank, ranks)
    balancer = balancer_of(experts, socket, name="own")
    own = OwnLayer(skewed_gate(2.0), experts, balancer)
    found = []
    for step in range(3):
        x = inputs(rank, TOKENS, step)
        if step == 1 and rank == 1:  # its shapes are static: tokens that go nowhere
            moe.gate = own.gate = lambda x, g=own.gate: (g(x)[0], g(x)[1].fill_(-1))
        mine = run(own, own, x)
        weight = torch.linspace(-1, 1, HIDDEN)
        y = moe(x)
        dx, *rest = torch.autograd.grad((y * weight).sum(), [x, *moe.experts.parameters()])
        theirs = [y, dx, torch.stack(rest[::2]), torch.stack(rest[1::2])]
        found.append((len(moe.last_plan.replicas), worst(mine, theirs)))
    return found


def compiled(rank, ranks, socket, backend):
    """Two layers in one graph against the same run without a compiler."""
    experts = [make_experts(rank, ranks) for _ in range(2)]
    balancer = balancer_of(experts[0], socket, layers=2)
    model = Model([OwnLayer(skewed_gate(2.0), e, balancer, n, scale=n and 0.75)
                   for n, e in enumerate(experts)])
    graph = torch.compile(model, fullgraph=True, backend=backend)
    found = []
    for step in range(3):
        x = inputs(rank, TOKENS, step)
        eager, fast = run(model, model, x), run(graph, model, x)
        found.append((all(map(torch.equal, eager, fast)), worst(fast, eager)))
    if backend == "aot_eager":  # generating code takes its time, and has nothing to reorder here
        with torch.no_grad():
            found.append((torch.equal(model(x), graph(x)), worst([graph(x)], [model(x)])))
    return found, ops.live_steps()


def graph_break(rank, ranks, socket):
    """A model that is compiled around BalancedMoE."""
    layers = [make_layers(rank, ranks, socket, name=f"break{n}")[1] for n in range(2)]
    model = Model(layers)
    graph = torch.compile(model, backend="aot_eager")
    found = []
    for step in range(3):
        x = inputs(rank, TOKENS + 16 * rank * step, step)
        eager, fast = run(model, model, x), run(graph, model, x)
        found.append((len(layers[0].last_plan.replicas), all(map(torch.equal, eager, fast))))
    return found


def contracts(rank, ranks, socket):
    """opcheck of every operator, with a step of its own where running it moves something."""
    experts = make_experts(rank, ranks)
    balancer = balancer_of(experts, socket)
    key = ops.register(balancer)
    weights = [torch.stack([getattr(e, n).detach() for e in experts]).requires_grad_()
               for n in ("up", "down")]
    ids = skewed_gate(2.0)(inputs(rank, TOKENS))[1]
    mains = [w.detach() for w in weights]
    rows = torch.randn(5, HIDDEN, requires_grad=True)
    named = torch.ops.ultraep

    def streamed(load):
        return ops.stream(ops.plan(load, key, 0, 0), weights)

    def computed():
        ticket, flight = streamed(ops.count_load(ids, EXPERTS))
        ops.await_weights(ticket, flight, rows, weights, SLOTS)
        return ticket

    def reduction(ticket):
        return ticket, rows.detach(), [torch.ones(SLOTS, *w.shape[1:]) for w in weights], mains

    opcheck(named.count_load, (ids, EXPERTS))
    opcheck(named.count_load, (ids.to(torch.int32).flatten(), EXPERTS))
    even = torch.full((EXPERTS,), 10, dtype=torch.int32)  # no replicas: it need not be streamed
    opcheck(named.plan, (even, key, 0, 0), test_utils=ONCE)
    ticket = computed()
    opcheck(named.route, (ticket, ids))
    opcheck(named.route, (ticket, ids.to(torch.int32)))
    for check in ONCE:
        opcheck(named.stream, (computed(), weights), test_utils=check)  # a restore
        # Even: a check gives it copies of the weights, which are refused when something travels.
        opcheck(named.await_weights, (*streamed(even), rows, weights, SLOTS), test_utils=check)
        opcheck(named.reduce, reduction(computed()), test_utils=check)
        ticket = computed()
        _, landing = ops.reduce(*reduction(ticket))
        opcheck(named.await_gradients, (ticket, landing, mains), test_utils=check)
    dist.barrier()
    return True


def lifetimes(rank, ranks, socket):
    """Steps go with their tickets and graphs; balancers are not kept."""
    experts = make_experts(rank, ranks)
    balancer = balancer_of(experts, socket)
    own = OwnLayer(skewed_gate(2.0), experts, balancer)
    x = inputs(rank, TOKENS)
    seen = []
    kept = [own(x, m) for m in range(3)]
    seen.append(ops.live_steps())
    kept[1].sum().backward(retain_graph=True)
    first = own.up.grad.clone()
    own.zero_grad()
    kept[1].sum().backward()
    seen.append(torch.equal(first, own.up.grad))
    del kept[0], kept[0]
    seen.append(ops.live_steps())
    kept.clear()
    with torch.no_grad():
        own(x)
    seen.append(ops.live_steps())
    with torch.autograd.graph.saved_tensors_hooks(torch.clone, lambda saved: saved):
        own(x).sum().backward()  # without a compiler no hook sees the ticket
    key = own.key
    seen.append(ops.register(balancer) == key)
    balancer.close()
    del own, balancer
    gc.collect()
    try:
        ops.plan(torch.zeros(EXPERTS, dtype=torch.int32), key, 0, 0)
    except InvalidArgument as e:
        seen.append(str(e))
    return seen


def refusals(rank, ranks, socket):
    experts = make_experts(rank, ranks)
    balancer = balancer_of(experts, socket)
    own = OwnLayer(skewed_gate(2.0), experts, balancer)
    x = inputs(rank, TOKENS)
    ids = own.gate(x)[1]
    weights = [own.up, own.down]
    texts = []

    def refuse(function):
        try:
            function()
            texts.append("nothing")
        except InvalidArgument as e:
            texts.append(str(e))

    ticket = ops.plan(ops.count_load(ids, EXPERTS), own.key, 0, 0)
    refuse(lambda: ops.route(ticket, ids.fill_(3)))
    refuse(lambda: ops.route(ticket.clone().fill_(99999), ids))
    refuse(lambda: ops.stream(ticket, [own.up]))
    refuse(lambda: ops.stream(ticket, [own.up.transpose(1, 2), own.down]))
    refuse(lambda: ops.await_weights(ticket, torch.zeros(1), x, weights, SLOTS))
    _, flight = ops.stream(ticket, weights)
    refuse(lambda: ops.await_weights(ticket, flight, x, [w.clone() for w in weights], SLOTS))
    ops.await_weights(ticket, flight, x, weights, SLOTS)
    refuse(lambda: ops.plan(torch.zeros(3, dtype=torch.int32), own.key, 0, 0))
    ticket, flight = ops.stream(ticket, [w.detach() for w in weights])  # a restore
    rows, replicas = ops.await_weights(ticket, flight, x, weights, SLOTS)
    refuse(lambda: replicas[0].sum().backward())
    y = torch.utils.checkpoint.checkpoint(own, x, use_reentrant=False)
    refuse(lambda: y.sum().backward())
    return texts


class OpsTest(DaemonTest):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(directory.cleanup)
        # Of the compiler: its output goes, and it compiles in the rank itself.
        for name, value in {"TORCHINDUCTOR_CACHE_DIR": directory.name,
                            "TORCHINDUCTOR_COMPILE_THREADS": "1"}.items():
            cls.addClassCleanup(os.environ.pop, name, None)
            os.environ[name] = value

    def test_ids_out_of_range_are_refused(self):
        for count in (ops.count_load,
                      torch.compile(lambda *a: ops.count_load(*a) + 1, fullgraph=True,
                                    backend="aot_eager")):
            for wrong in (EXPERTS, -2, 2**32):
                with self.assertRaisesRegex(InvalidArgument, "must be -1 or 0..7"):
                    count(torch.tensor([[0, wrong]]), EXPERTS)
        load = ops.count_load(torch.tensor([[1, -1], [1, 7]]), EXPERTS)
        self.assertEqual(load.tolist(), [0, 2, 0, 0, 0, 0, 0, 1])

    def test_operators_keep_their_contracts(self):
        self.assertEqual(self.run_ranks(contracts), [True, True])

    def test_the_pieces_are_the_balanced_layer(self):
        for found in self.run_ranks(same_as_balanced_moe):
            self.assertGreater(found[0][0], 0)
            for _, difference in found:
                self.assertLess(difference, 1e-5)

    def test_one_graph_without_code_generation_has_the_same_bits(self):
        for found, live in self.run_ranks(compiled, "aot_eager"):
            self.assertTrue(all(same for same, _ in found), found)
            self.assertEqual(live, 0)

    def test_one_graph_with_code_generation(self):
        for found, live in self.run_ranks(compiled, "inductor", timeout=300):
            for _, difference in found:
                self.assertLess(difference, 1e-5)
            self.assertEqual(live, 0)

    def test_balanced_moe_in_a_compiled_model(self):
        for found in self.run_ranks(graph_break):
            for replicas, same in found:
                self.assertGreater(replicas, 0)
                self.assertTrue(same)

    def test_steps_live_as_long_as_their_tickets(self):
        for seen in self.run_ranks(lifetimes):
            self.assertEqual(seen[:5], [3, True, 1, 0, True])
            self.assertIn("no balancer has the key", seen[5])

    def test_wrong_use_is_refused(self):
        for texts in self.run_ranks(refusals):
            for text, said in zip(
                    texts, ("the submitted row says", "names no step", "shard_bytes", "contiguous",
                            "without its stream", "others, or copies", "torch.int32 [8]",
                            "same weights", "checkpoint"), strict=True):
                self.assertIn(said, text)


if __name__ == "__main__":
    unittest.main()
