"""BalancedMoE on real ranks and a real daemon: results, gradients, checkpoints, microbatches."""

import copy
import pickle
import threading
import time
import unittest
import unittest.mock

import torch
import torch.distributed as dist
from torch import nn

import ultraep.torch as ut
from ranks import (DaemonTest, EXPERTS, FFN, HIDDEN, gradients, inputs, make_experts, make_layers,
                   skewed_gate, worst)
from ultraep import Verdict
from ultraep.torch.step import Step


def forward(rank, ranks, socket):
    plain, balanced = make_layers(rank, ranks, socket)
    seen = []
    for step, tokens in enumerate([(120, 120), (0, 77), (33, 0), (0, 0), (1, 1), (500, 3)]):
        x = inputs(rank, tokens[rank % 2], step)
        for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
            with mode():
                same = torch.equal(plain(x), balanced(x))
            seen.append((same, balanced.last_plan.verdict, len(balanced.last_plan.replicas)))
    return seen


def backward(rank, ranks, socket, dtype):
    plain, balanced = make_layers(rank, ranks, socket, dtype)
    seen = []
    for step, tokens in enumerate([(120, 120), (0, 77), (64, 0), (200, 190)]):
        x = inputs(rank, tokens[rank], step, dtype)
        plain_x, plain_p = gradients(plain, x, plain(x))
        runs = [gradients(balanced, x, balanced(x)) for _ in range(2)]
        assert balanced.last_plan.replicas, balanced.last_plan
        seen.append((torch.equal(runs[0][0], plain_x),
                     all(torch.equal(a, b) for a, b in zip(runs[0][1], runs[1][1])),
                     all(a.dtype == dtype for a in runs[0][1]), worst(runs[0][1], plain_p)))
    return seen


class Block(nn.Module):
    """Something before the experts whose backward the sums run beside."""

    def __init__(self, moe, starts):
        super().__init__()
        torch.manual_seed(7)
        self.before = nn.Linear(HIDDEN, HIDDEN)
        self.moe, self.starts = moe, starts

    @property
    def experts(self):
        return self.moe.experts

    def forward(self, x):
        if self.starts:
            x = self.moe.start(x)
        return x + self.moe(torch.tanh(self.before(x)))


def variants(rank, ranks, socket):
    """Each way to run a block against the plainest one, bit for bit."""
    _, moe = make_layers(rank, ranks, socket)
    x = inputs(rank, 150)
    expected = gradients(moe, x, Block(moe, False)(x))
    found = {}
    for name, run in {
            "start": lambda: Block(moe, True)(x),
            "checkpoint": lambda: ut.checkpoint(Block(moe, False), x),
            "checkpoint and start": lambda: ut.checkpoint(Block(moe, True), x),
            "layer behind": lambda: ut.checkpoint(lambda y: torch.tanh(Block(moe, False)(y)) * 1, x),
    }.items():
        got = gradients(moe, x, run())
        if name == "layer behind":
            want = gradients(moe, x, torch.tanh(Block(moe, False)(x)) * 1)
        else:
            want = expected
        found[name] = torch.equal(got[0], want[0]) and all(map(torch.equal, got[1], want[1]))
    with torch.autograd.graph.save_on_cpu():  # hooks of others still get the other tensors
        y = Block(moe, False)(x)
    got = gradients(moe, x, y)
    found["offload"] = all(map(torch.equal, got[1], expected[1]))
    return found


def twice(rank, ranks, socket):
    """A second backward of the same graph restores and reduces again."""
    _, moe = make_layers(rank, ranks, socket)
    x = inputs(rank, 90)
    loss = moe(x).square().sum()
    own = list(moe.experts.parameters())
    first, second = (torch.autograd.grad(loss, own, retain_graph=True) for _ in range(2))
    return all(map(torch.equal, first, second))


def joins(rank, ranks, socket):
    """What comes first in the backward: the sums' end, or attention's gradients."""
    _, moe = make_layers(rank, ranks, socket)
    orders = []
    for starts in (True, False):
        block, order = Block(moe, starts), []
        join = Step.join
        with unittest.mock.patch.object(Step, "join",
                                        lambda *a: order.append("join") or join(*a)):
            block.before.weight.register_hook(lambda g: order.append("attention"))
            block(inputs(rank, 80)).sum().backward()
        orders.append(order)
    return orders


def threads(rank, ranks, socket):
    """Other threads of Python run while this one waits for a slow rank."""
    _, moe = make_layers(rank, ranks, socket)
    x = inputs(rank, 30)
    moe(x)
    dist.barrier()
    ticks, over = 0, threading.Event()

    def tick():
        nonlocal ticks
        while not over.wait(0.001):
            ticks += 1

    thread = threading.Thread(target=tick)
    thread.start()
    if rank == 1:
        time.sleep(1)
    moe.balancer.plan(torch.zeros(EXPERTS, dtype=torch.int32))
    over.set()
    thread.join()
    return ticks


def copies(rank, ranks, socket):
    """An average of weights: a copied model is the same rank of the same group."""
    _, moe = make_layers(rank, ranks, socket)
    other = copy.deepcopy(moe)
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(2)
    x = inputs(rank, 50)
    same = torch.equal(ut.BalancedMoE(moe.gate, other.experts)(x), other(x))
    try:
        pickle.dumps(moe.balancer._client)
    except TypeError as e:
        return same, not torch.equal(moe(x), other(x)), str(e)


def microbatches(rank, ranks, socket, order):
    """Three in flight, backward in some order, accumulated in .grad."""
    plain, balanced = make_layers(rank, ranks, socket)
    results = []
    for layer in (plain, balanced):
        layer.zero_grad()
        outputs = [layer(inputs(rank, 50 + 30 * m, m), microbatch=m) for m in range(3)]
        for m in order:
            outputs[m].square().mean().backward()
        results.append([p.grad.clone() for p in layer.experts.parameters()])
    return worst(results[1], results[0])


def recompute_without_plan(rank, ranks, socket):
    _, moe = make_layers(rank, ranks, socket)
    y = torch.utils.checkpoint.checkpoint(moe, inputs(rank, 60), use_reentrant=False)
    y.sum().backward()


def frozen(rank, ranks, socket):
    """Experts that do not learn: x's gradient still passes through the replicas."""
    experts = make_experts(rank, ranks).requires_grad_(False)
    balancer = ut.make_balancer(experts, socket=socket, slots=2, wait=20)
    gate = skewed_gate(2.0)
    x = inputs(rank, 90)
    found = [torch.autograd.grad(layer(x).square().sum(), x)[0]
             for layer in (ut.BalancedMoE(gate, experts),
                           ut.BalancedMoE(gate, experts, balancer))]
    return balancer.config.training, torch.equal(*found)


class Scaled(nn.Module):
    """An expert with a frozen parameter and a buffer, which replicas need as well."""

    def __init__(self, e):
        super().__init__()
        torch.manual_seed(e)
        self.frozen = nn.Parameter(torch.rand(HIDDEN) + e, requires_grad=False)
        self.up = nn.Parameter(torch.randn(FFN, HIDDEN))
        self.down = nn.Parameter(torch.randn(HIDDEN, FFN))
        self.register_buffer("scale", torch.rand(1) + e)

    def forward(self, x):
        y = ut.tiled_linear(x * self.scale, self.up, 16).relu()
        return ut.tiled_linear(y, self.down, 16) * self.frozen


def buffers(rank, ranks, socket):
    per_rank = EXPERTS // ranks
    experts = nn.ModuleList(Scaled(rank * per_rank + i) for i in range(per_rank))
    balancer = ut.make_balancer(experts, socket=socket, slots=2, wait=20)
    gate = skewed_gate(2.0)
    plain, balanced = (ut.BalancedMoE(gate, experts, b) for b in (None, balancer))
    x = inputs(rank, 90)
    a, b = plain(x), balanced(x)
    own = [p for p in experts.parameters() if p.requires_grad]
    return (torch.equal(a, b), len(balanced.last_plan.replicas),
            worst(torch.autograd.grad(b.square().mean(), own),
                  torch.autograd.grad(a.square().mean(), own)))


def nowhere(rank, ranks, socket):
    """A gate that drops tokens: id -1."""
    plain, balanced = make_layers(rank, ranks, socket)
    inner = balanced.gate

    def gate(x):
        weights, ids = inner(x)
        return weights, ids.masked_fill(torch.arange(len(x)).unsqueeze(1) % 3 == 0, -1)

    plain.gate = balanced.gate = gate
    x = inputs(rank, 100)
    a, b = plain(x), balanced(x)
    return (torch.equal(a, b), bool((a[::3] == 0).all()),
            torch.equal(gradients(plain, x, a)[0], gradients(balanced, x, b)[0]))


def names(rank, ranks, socket):
    plain, balanced = make_layers(rank, ranks, socket)
    balanced(inputs(rank, 60)).sum().backward()
    return (list(plain.state_dict()) == list(balanced.state_dict()),
            [n for n, _ in plain.named_parameters()] == [n for n, _ in balanced.named_parameters()])


def plain_products(rank, ranks, socket):
    """Experts of ordinary nn.Linear: equal up to rounding."""
    experts = nn.ModuleList()
    for e in range(EXPERTS // ranks):
        torch.manual_seed(100 * rank + e)
        experts.append(nn.Sequential(nn.Linear(HIDDEN, FFN), nn.GELU(), nn.Linear(FFN, HIDDEN)))
    balancer = ut.make_balancer(experts, socket=socket, slots=2, wait=20)
    gate = skewed_gate(2.0)
    x = inputs(rank, 333)
    a, b = (ut.BalancedMoE(gate, experts, bal)(x) for bal in (None, balancer))
    return worst([b], [a])


def unused_experts(rank, ranks, socket):
    """An expert that nobody needs gets a zero gradient, as without us, not none."""
    plain, balanced = make_layers(rank, ranks, socket, bias=50.0)
    x = inputs(rank, 40)
    return [[g is None for g in gradients(layer, x, layer(x))[1]] for layer in (plain, balanced)]


class LayerTest(DaemonTest):

    def test_tiled_experts_are_row_independent(self):
        threads = torch.get_num_threads()
        self.addCleanup(torch.set_num_threads, threads)
        torch.set_num_threads(1)  # as the ranks; a library may split a product among many
        for tile in (16, 64):
            expert = ut.TiledExpert(256, 1024, tile)
            self.assertTrue(ut.rows_are_independent(expert, 256, rows=300))

    def test_forward_has_the_plain_layers_bits_for_any_number_of_tokens(self):
        for ranks in (2, 4):
            for seen in self.run_ranks(forward, ranks=ranks):
                self.assertTrue(all(same for same, _, _ in seen), seen)
                self.assertTrue(all(v is Verdict.PLAN for _, v, _ in seen), seen)
                self.assertGreater(seen[0][2], 0)

    def test_gradients(self):
        for dtype, bound in ((torch.float32, 1e-5), (torch.bfloat16, 0.02), (torch.float16, 2e-3)):
            with self.subTest(dtype):
                for rank in self.run_ranks(backward, dtype):
                    for same_x, same_runs, same_dtype, difference in rank:
                        self.assertTrue(same_x)
                        self.assertTrue(same_runs)
                        self.assertTrue(same_dtype)
                        self.assertLess(difference, bound)

    def test_start_checkpoint_and_offload_change_no_bit(self):
        for found in self.run_ranks(variants):
            self.assertTrue(all(found.values()), found)

    def test_microbatches_in_flight(self):
        for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0)):
            for difference in self.run_ranks(microbatches, order):
                self.assertLess(difference, 1e-5)

    def test_a_graph_that_is_kept_has_a_second_backward(self):
        self.assertEqual(self.run_ranks(twice), [True, True])

    def test_sums_are_joined_after_attention_when_the_block_is_started(self):
        for started, alone in self.run_ranks(joins):
            self.assertEqual(started, ["attention", "join"])
            self.assertEqual(alone, ["join", "attention"])

    def test_waits_release_the_gil(self):
        self.assertGreater(self.run_ranks(threads)[0], 100)

    def test_a_copied_model_shares_the_balancer(self):
        for same, differs, text in self.run_ranks(copies):
            self.assertTrue(same and differs)
            self.assertIn("belongs to its process", text)

    def test_a_recompute_without_its_plan_is_refused(self):
        errors = self.lost(recompute_without_plan)
        for _, kind, text in errors:
            self.assertEqual(kind, "InvalidArgument")
            self.assertIn("ultraep.torch.checkpoint", text)

    def test_frozen_experts(self):
        self.assertEqual(self.run_ranks(frozen), [(False, True)] * 2)

    def test_buffers_and_frozen_parameters_travel(self):
        for same, replicas, difference in self.run_ranks(buffers):
            self.assertTrue(same)
            self.assertGreater(replicas, 0)
            self.assertLess(difference, 1e-5)

    def test_dropped_tokens(self):
        self.assertEqual(self.run_ranks(nowhere), [(True, True, True)] * 2)

    def test_replicas_are_no_parameters(self):
        self.assertEqual(self.run_ranks(names), [(True, True)] * 2)

    def test_plain_products_differ_by_rounding_only(self):
        for difference in self.run_ranks(plain_products):
            self.assertLess(difference, 1e-5)

    def test_experts_without_tokens_have_gradients_as_without_us(self):
        for plain, balanced in self.run_ranks(unused_experts):
            self.assertEqual(plain, balanced)
            self.assertFalse(any(plain))


if __name__ == "__main__":
    unittest.main(verbosity=2)
