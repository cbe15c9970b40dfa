"""Backwards that are repeated, nested, lost on the way, or never come."""

import gc
import time
import unittest
import unittest.mock

import torch
from torch import nn

import ultraep.client
import ultraep.torch as ut
from ranks import DaemonTest, gradients, inputs, make_layers, worst

from ultraep.torch.step import Step


def nested(rank, ranks, socket):
    """A checkpoint in a checkpoint, and both run backward twice."""
    _, moe = make_layers(rank, ranks, socket, layers=2)
    other = ut.BalancedMoE(moe.gate, moe.experts, moe.balancer, layer=1)
    x = inputs(rank, 90)

    def inner(y):
        return ut.checkpoint(moe, torch.tanh(y))

    expected = gradients(moe, x, other(moe(torch.tanh(x))))
    loss = ut.checkpoint(lambda y: other(inner(y)), x)
    weight = torch.linspace(-1, 1, loss.shape[-1])
    own = [x, *moe.experts.parameters()]
    runs = [torch.autograd.grad((loss * weight).sum(), own, retain_graph=True) for _ in range(2)]
    return [all(map(torch.equal, run, [expected[0], *expected[1]])) for run in runs]


def partial(rank, ranks, socket):
    """A backward that does not come to the block's start; the next one does."""
    _, moe = make_layers(rank, ranks, socket)
    x = inputs(rank, 90)
    expected = gradients(moe, x, moe(torch.tanh(x) * 1))
    started = moe.start(x)
    hidden = torch.tanh(started) * 1
    y = moe(hidden)
    weight = torch.linspace(-1, 1, y.shape[-1])
    loss = (y * weight).sum()
    torch.autograd.grad(loss, hidden, retain_graph=True)
    found = torch.autograd.grad(loss, [x, *moe.experts.parameters()])
    return all(map(torch.equal, found, [expected[0], *expected[1]]))


class Breaks(nn.Module):
    """Raises once, in its forward or its backward."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.broken = inner, None

    def forward(self, x):
        if self.broken == "forward":
            raise ValueError("the expert's own")
        y = self.inner(x)
        if self.broken == "backward" and y.requires_grad:
            y.register_hook(lambda g: 1 / 0)
        return y


def recovers(rank, ranks, socket, where):
    """All ranks raise and go on: at most one more step is lost."""
    _, moe = make_layers(rank, ranks, socket)
    experts = nn.ModuleList(Breaks(e) for e in moe.experts)
    layer = ut.BalancedMoE(moe.gate, experts, ut.make_balancer(experts, socket=socket, slots=2,
                                                               wait=20, step_timeout=20))
    seen, kept = [], []
    for step in range(300):
        if step > 7 and seen[-1] == "PLAN":
            break
        if seen and seen[-1] == "DECLINED":
            time.sleep(0.02)  # the next generation needs a moment
        for e in experts:
            e.broken = where if step == 2 else None
        try:
            loss = layer(inputs(rank, 60)).sum()
            kept.append(loss)  # as a loop's variable keeps it
            loss.backward()
            seen.append(layer.last_plan.verdict.name)
        except (ValueError, RuntimeError, ZeroDivisionError) as e:
            seen.append(type(e).__name__)
    return seen


def lifetimes(rank, ranks, socket):
    """Handles and steps go with their graphs, also those whose backward never came."""
    _, moe = make_layers(rank, ranks, socket)
    lib, freed = ultraep.client.lib, []
    free = lib.ultraep_plan_free
    with unittest.mock.patch.object(lib, "ultraep_plan_free",
                                    lambda handle: freed.append(handle) or free(handle)):
        for step in range(30):
            y = moe(inputs(rank, 40))
            if step % 3:
                y.sum().backward()
        del y
        gc.collect()
    return len(freed), sum(isinstance(o, Step) for o in gc.get_objects())


def hooks(rank, ranks, socket):
    """Hooks around the layer get what the experts save, but for the slots."""
    _, moe = make_layers(rank, ranks, socket)
    names = [e.up.shape for e in moe.experts]
    seen = {"packed": 0, "weights": 0}

    def pack(t):
        seen["packed"] += 1
        seen["weights"] += t.shape in (names[0], names[0][::-1])
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = moe(inputs(rank, 60))
    used = sum(r.rank == rank for r in moe.last_plan.replicas)
    y.sum().backward()
    return seen["weights"] // 2 == len(names), used, seen["packed"]


def any_order(rank, ranks, socket):
    plain, moe = make_layers(rank, ranks, socket)
    layer = ut.BalancedMoE(moe.gate, moe.experts, moe.balancer, any_order=True)
    x = inputs(rank, 120)
    expected = gradients(plain, x, plain(x))
    orders = []
    reduce = ultraep.Plan.reduce
    with unittest.mock.patch.object(ultraep.Plan, "reduce",
                                    lambda *a: orders.append(a[3]) or reduce(*a)):
        found = gradients(layer, x, layer(x))
    return orders, worst(found[1], expected[1])


def labels(rank, ranks, socket):
    _, moe = make_layers(rank, ranks, socket, layers=3)
    layer = ut.BalancedMoE(moe.gate, moe.experts, moe.balancer, layer=2)
    found = []
    for microbatch in (0, 5):
        layer(inputs(rank, 20), microbatch=microbatch)
        plan = layer.last_plan
        found.append((plan.sequence, plan.layer, plan.microbatch))
    return found


class BackwardTest(DaemonTest):

    def test_checkpoints_in_checkpoints_twice(self):
        self.assertEqual(self.run_ranks(nested), [[True, True]] * 2)

    def test_a_backward_that_ended_early_does_not_spoil_the_next(self):
        for ranks in (2, 4):
            self.assertEqual(self.run_ranks(partial, ranks=ranks), [True] * ranks)

    def test_after_an_error_on_all_ranks_at_most_one_more_step_is_lost(self):
        for where, error in (("forward", "ValueError"), ("backward", "ZeroDivisionError")):
            for seen in self.run_ranks(recovers, where):
                self.assertEqual(seen[2], error, seen)
                self.assertLessEqual(seen.count("Failed"), 1, seen)
                self.assertNotIn("InvalidArgument", seen)
                self.assertEqual(seen[-1], "PLAN", seen)

    def test_steps_go_with_their_graphs(self):
        self.assertEqual(self.run_ranks(lifetimes), [(30, 0)] * 2)

    def test_hooks_around_the_layer_are_kept(self):
        for weights, _, packed in self.run_ranks(hooks):
            self.assertTrue(weights)
            self.assertGreater(packed, 8)

    def test_any_order(self):
        for orders, difference in self.run_ranks(any_order, ranks=4):
            self.assertEqual(orders, [True])
            self.assertLess(difference, 1e-5)

    def test_plans_carry_layer_and_microbatch(self):
        for found in self.run_ranks(labels):
            self.assertEqual(found, [(0, 2, 0), (1, 2, 5)])


if __name__ == "__main__":
    unittest.main(verbosity=2)
