"""What a framework sees when something is wrong: exceptions with value and rank, never a hang."""

import gc
import os
import time
import unittest
import warnings

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader

import ultraep.torch as ut
from ranks import (DaemonTest, EXPERTS, HIDDEN, Lost, gradients, inputs, make_experts, make_layers,
                   run_ranks, skewed_gate, start_daemon)
from ultraep import Failed, InvalidArgument, Phase, Verdict


def shared(rank, make):
    """make()'s daemon in rank 0, and its socket everywhere."""
    daemon = make() if rank == 0 else None
    socket = [daemon.socket if daemon else ""]
    dist.broadcast_object_list(socket, src=0)
    return daemon, socket[0]


def until_planned(rank, moe):
    """Steps until one is planned."""
    for step in range(600):
        moe(inputs(rank, 60))
        if moe.last_plan.verdict is Verdict.PLAN:
            return step
        time.sleep(0.05)
    raise AssertionError(moe.balancer.state())


def absent(rank, ranks):
    """No daemon for a while, then one, then none, then one again."""
    daemon, socket = shared(rank, start_daemon)
    if daemon:
        daemon.process.kill()
        daemon.process.wait()
    dist.barrier()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        plain, moe = make_layers(rank, ranks, socket, wait=0.2)
        same = [torch.equal(plain(inputs(rank, 50, s)), moe(inputs(rank, 50, s))) for s in range(5)]
        declined = moe.last_plan.verdict is Verdict.DECLINED
        time.sleep(0.3)
        moe(inputs(rank, 50))
    texts = [str(w.message) for w in said if w.category is RuntimeWarning]
    if daemon:
        daemon.restart()
    dist.barrier()
    until_planned(rank, moe)
    if daemon:
        daemon.process.kill()
        daemon.process.wait()
    dist.barrier()
    x = inputs(rank, 50)
    y = moe(x)
    same.append(torch.equal(plain(x), y))
    y.sum().backward()
    if daemon:
        daemon.restart()
    dist.barrier()
    until_planned(rank, moe)
    dist.barrier()
    if daemon:
        daemon.close()
    return all(same), declined, texts


def restarted_between(rank, ranks, checkpoint):
    """The memory changes between forward and backward: restores go to the new one."""
    daemon, socket = shared(rank, start_daemon)
    _, moe = make_layers(rank, ranks, socket)
    x = inputs(rank, 120)
    run = (lambda: ut.checkpoint(moe, x)) if checkpoint else (lambda: moe(x))
    expected = gradients(moe, x, run())
    y = run()
    before = moe.last_plan
    generation = moe.balancer.state().generation
    if daemon:
        daemon.process.kill()
        daemon.process.wait()
        daemon.restart()
    dist.barrier()
    with torch.no_grad():
        until_planned(rank, moe)
    assert moe.balancer.state().generation != generation
    got = gradients(moe, x, y)
    dist.barrier()
    if daemon:
        daemon.close()
    return len(before.replicas), torch.equal(got[0], expected[0]) and all(
        map(torch.equal, got[1], expected[1]))


def dies(rank, ranks, socket, when):
    """Rank 1 goes; rank 0 must get an exception that names it."""
    _, moe = make_layers(rank, ranks, socket, step_timeout=10.0)
    moe(inputs(rank, 60))
    y = moe(inputs(rank, 60))
    if rank == 1:
        if when == "forward":
            os._exit(1)
        kept = moe.balancer.plan(torch.ones(EXPERTS, dtype=torch.int32))
        assert kept
        os._exit(1)  # in the middle of a step
    begin = time.monotonic()
    try:
        for _ in range(5):
            moe(inputs(rank, 60))
        y.sum().backward()
    except Failed as e:
        return str(e), time.monotonic() - begin
    return "nothing", 0


def leaves(rank, ranks, socket):
    """Rank 1 leaves in order; rank 0 is told so when it goes on all the same."""
    _, moe = make_layers(rank, ranks, socket)
    moe(inputs(rank, 60))
    dist.barrier()
    if rank == 1:
        moe.balancer.close()
        try:
            moe(inputs(rank, 60))
        except InvalidArgument as e:
            return str(e)
    try:
        moe(inputs(rank, 60))
    except Failed as e:
        return str(e)
    return "nothing"


def disagree(rank, ranks, socket, slots, wide):
    experts = make_experts(rank, ranks)
    ut.make_balancer(experts, socket=socket, slots=slots[rank],
                     **({"layers": 1 + rank} if wide else {}))


def wrong(rank, ranks, socket, case):
    """Rank 1 gives something wrong; rank 0 waits at a barrier with a time limit."""
    if case == "double":
        ut.make_balancer(make_experts(rank, ranks, torch.float64), socket=socket)
    plain, moe = make_layers(rank, ranks, socket)
    for layer in (plain, moe):
        inner = skewed_gate(0.0)

        def gate(x):
            weights, ids = inner(x)
            if case == "range":
                ids[3, 1] = 2**40 if layer is plain else 99
            elif case == "shape":
                ids = ids.view(-1)
            elif case == "dtype":
                ids = ids.float()
            elif case == "weights":
                weights = weights[:, :1]
            return weights, ids

        layer.gate = gate
        try:
            layer(inputs(rank, 20))
        except InvalidArgument as e:
            found = str(e)
        else:
            found = "nothing"
    layer.gate = inner  # nothing was submitted: the group goes on
    moe(inputs(rank, 20))
    if case == "layer":
        ut.BalancedMoE(inner, moe.experts, moe.balancer, layer=3)
    if case == "uneven":
        ut.BalancedMoE(inner, [*moe.experts[:-1], ut.TiledExpert(HIDDEN, 7)], moe.balancer)
    if case == "converted":
        moe.to(torch.bfloat16)(inputs(rank, 20, dtype=torch.bfloat16))
    if case == "thawed":
        moe = ut.BalancedMoE(inner, make_experts(rank, ranks).requires_grad_(False),
                             ut.make_balancer(make_experts(rank, ranks).requires_grad_(False),
                                              socket=socket))
        moe.experts[1].down.requires_grad_()
        moe(inputs(rank, 20))
    if case == "row":
        moe.balancer.plan(torch.zeros(3, dtype=torch.int32))
    return found, moe.last_plan.verdict


class Numbers(torch.utils.data.Dataset):

    def __len__(self):
        return 64

    def __getitem__(self, i):
        gc.collect()
        return torch.full((HIDDEN,), float(i))


def data_loaders(rank, ranks, socket):
    """Forked workers that live while steps are open and plans are kept, and that end normally."""
    plain, moe = make_layers(rank, ranks, socket)
    same = []
    for x in DataLoader(Numbers(), batch_size=16, num_workers=2):
        y = moe(x)
        pid = os.fork()
        if pid == 0:
            del y
            gc.collect()
            moe.balancer.close()
            os._exit(0)
        os.waitpid(pid, 0)
        same.append(torch.equal(y, plain(x)))
        y.sum().backward()
    phase = moe.balancer.state().phase
    dist.barrier()
    return same, phase


class FailureTest(DaemonTest):

    def test_without_a_daemon_there_is_one_warning_and_it_is_picked_up(self):
        for same, declined, texts in run_ranks(absent):
            self.assertTrue(same)
            self.assertTrue(declined)
            self.assertEqual(len(texts), 1, texts)
            self.assertIn("plain placement", texts[0])
            self.assertIn("ultraepd.sock", texts[0])

    def test_a_restart_between_forward_and_backward_changes_no_bit(self):
        for checkpoint in (False, True):
            for replicas, same in run_ranks(restarted_between, checkpoint):
                self.assertGreater(replicas, 0)
                self.assertTrue(same)

    def test_a_rank_that_dies_is_named_before_the_deadline(self):
        for when in ("forward", "step"):
            with self.assertRaises(Lost) as raised:
                self.run_ranks(dies, when)
            self.assertEqual([e[0] for e in raised.exception.errors], [1])
            text, seconds = raised.exception.results[0]
            self.assertIn("rank 1 is gone", text)
            self.assertLess(seconds, 10)

    def test_a_rank_that_leaves_is_named(self):
        went_on, left = self.run_ranks(leaves)
        self.assertIn("rank 1 left", went_on)
        self.assertIn("rank 1: this balancer is closed", left)

    def test_disagreement_names_field_values_and_rank(self):
        for slots, wide, field in (((2, 3), False, "slots"), ((2, 2), True, "layers")):
            for _, kind, text in self.lost(disagree, slots, wide):
                self.assertEqual(kind, "InvalidArgument")
                self.assertIn(f"disagrees on {field}: rank 0 has", text)
                self.assertIn("rank 1 has", text)

    def test_a_gate_that_is_wrong_is_told_value_and_rank(self):
        for case, expected in (("range", "ids[7] is 99"), ("shape", "[40]"),
                               ("dtype", "torch.float32"), ("weights", "[20, 1]")):
            for rank, (found, verdict) in enumerate(self.run_ranks(wrong, case)):
                self.assertIn(expected, found)
                self.assertIn(f"rank {rank}, layer 0", found)
                self.assertIs(verdict, Verdict.PLAN)

    def test_layers_that_do_not_fit_are_refused(self):
        for case, expected in (("double", "torch.float64"), ("layer", "layer is 3"),
                               ("uneven", "local expert 3"), ("row", "[3]"),
                               ("converted", "is now torch.bfloat16 [64, 32]"),
                               ("thawed", "down requires a gradient now")):
            for _, kind, text in self.lost(wrong, case):
                self.assertEqual(kind, "InvalidArgument")
                self.assertIn(expected, text)

    def test_data_loaders_may_fork(self):
        for same, phase in self.run_ranks(data_loaders):
            self.assertTrue(all(same))
            self.assertIs(phase, Phase.OPEN)


if __name__ == "__main__":
    unittest.main(verbosity=2)
