"""Experts that cannot be balanced are refused, on all ranks alike; odd ones that can be are right."""

import unittest

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import ultraep
import ultraep.torch as ut
from ranks import (DaemonTest, FFN, HIDDEN, gradients, inputs, make_experts, make_layers,
                   skewed_gate, worst)
from ultraep import InvalidArgument


class Tiled(nn.Module):
    """What the experts below do something odd around."""

    def __init__(self, number):
        super().__init__()
        torch.manual_seed(number)
        self.inner = ut.TiledExpert(HIDDEN, FFN, 16)

    def forward(self, x):
        return self.inner(x)


class Relu(Tiled):
    pass


class Counts(Tiled):

    def __init__(self, number):
        super().__init__(number)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x):
        self.seen.add_(len(x))
        return self.inner(x)


class Checkpoints(Tiled):

    def forward(self, x):
        return checkpoint(self.inner, x, use_reentrant=False)


class Empty(Tiled):

    def __init__(self, number):
        super().__init__(number)
        self.register_buffer("nothing", torch.zeros(0))


class Sliced(nn.Module):
    """Autograd saves parts of the weights, with offsets and strides of their own."""

    def __init__(self, number):
        super().__init__()
        torch.manual_seed(number)
        self.weights = nn.Parameter(torch.randn(3, HIDDEN, HIDDEN) / 6)

    def forward(self, x):
        for w in self.weights[1:]:
            x = torch.tanh(ut.tiled_linear(x, w.t(), 16))
        return x * self.weights[0, :, 0]


def make(rank, ranks, kind, socket):
    """(plain, balanced) of experts of this kind."""
    count = 8 // ranks
    experts = nn.ModuleList(kind(rank * count + i) for i in range(count))
    gate = skewed_gate(2.0)
    balancer = ut.make_balancer(experts, socket=socket, slots=2, wait=20, step_timeout=20)
    return ut.BalancedMoE(gate, experts), ut.BalancedMoE(gate, experts, balancer)


def odd(rank, ranks, socket, kind):
    plain, balanced = make(rank, ranks, kind, socket)
    x = inputs(rank, 150)
    found, expected = (gradients(layer, x, layer(x)) for layer in (balanced, plain))
    assert balanced.last_plan.replicas
    return torch.equal(found[0], expected[0]), worst(found[1], expected[1])


def train(rank, ranks, socket, kind):
    _, balanced = make(rank, ranks, kind, socket)
    balanced(inputs(rank, 150)).sum().backward()


def changed(rank, ranks, socket, case):
    plain, moe = make_layers(rank, ranks, socket)
    x = inputs(rank, 100)
    if case == "strides":
        up = moe.experts[1].up
        up.data = up.data.t().contiguous().t()
    if case == "between":
        y = moe(x)
        moe.experts[0].up.data = moe.experts[0].up.data.to(torch.bfloat16)
        y.sum().backward()
    if case == "version":
        y = moe(x)
        with torch.no_grad():
            for p in moe.experts.parameters():
                p.mul_(2)
        y.sum().backward()
    if case == "kinds":
        ut.BalancedMoE(moe.gate, [Tiled(0), Tiled(1), Relu(2), Tiled(3)])
    if case == "meta":
        moe.gate = lambda x: (torch.ones(4, 2), torch.zeros(4, 2, dtype=torch.int64))
        moe(torch.empty(4, HIDDEN, device="meta"))
    moe(x)


def dtypes(rank, ranks, socket):
    ut.make_balancer(make_experts(rank, ranks, (torch.float16, torch.bfloat16)[rank]),
                     socket=socket)


def autocast(rank, ranks, socket):
    plain, balanced = make_layers(rank, ranks, socket)
    with torch.autocast("cpu", torch.bfloat16):
        return torch.equal(plain(inputs(rank, 130)), balanced(inputs(rank, 130)))


class ExpertsTest(DaemonTest):

    def check_refused(self, text, function, *args, kind="InvalidArgument"):
        errors = self.lost(function, *args)
        self.assertEqual(len(errors), 2)
        for _, name, found in errors:
            self.assertEqual(name, kind)
            self.assertIn(text, found)

    def test_odd_experts(self):
        for kind in (Empty, Sliced):
            for same, difference in self.run_ranks(odd, kind):
                self.assertTrue(same, kind)
                self.assertLess(difference, 1e-5, kind)

    def test_experts_that_write_buffers_or_hide_weights_are_refused(self):
        self.check_refused("writes to its buffers", train, Counts)
        self.check_refused("checkpoint the layer instead", train, Checkpoints)

    def test_experts_that_changed_are_refused(self):
        self.check_refused("strides (1, 64)", changed, "strides")
        self.check_refused("is now torch.bfloat16", changed, "between")

    def test_weights_changed_before_the_backward_are_an_error_as_without_us(self):
        self.check_refused("inplace operation", changed, "version", kind="RuntimeError")

    def test_experts_of_several_kinds_are_refused(self):
        self.check_refused("local expert 2 is another kind", changed, "kinds")

    def test_other_devices_are_refused(self):
        self.check_refused("is on meta", changed, "meta")

    def test_dtypes_must_agree_though_sizes_do(self):
        self.check_refused("rank 1 has (ExpertLayout", dtypes)

    def test_tiles_keep_their_bits_under_autocast(self):
        self.assertEqual(self.run_ranks(autocast), [True, True])

    def test_sizes_that_c_would_wrap_are_refused(self):
        good = {"name": "n", "nonce": bytes(16), "rank": 0, "ranks": 2, "experts": 4, "slots": 1}
        ultraep.client.memory_of(ultraep.Config(**good))
        for wrong in ({"slots": 2**32}, {"slots": -1}, {"step_timeout": -3.0},
                      {"step_timeout": float("inf")}, {"solve_deadline": float("nan")}):
            with self.assertRaises(InvalidArgument) as raised:
                ultraep.client.memory_of(ultraep.Config(**{**good, **wrong}))
            self.assertIn(f"{next(iter(wrong))} is ", str(raised.exception))


if __name__ == "__main__":
    unittest.main(verbosity=2)
