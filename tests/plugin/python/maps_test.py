"""Routing maps by a plan's quotas: a real daemon, clients of two ranks in this process, neither a
process group nor a framework that routes by maps."""

import os
import unittest

import torch

import ranks  # noqa: F401  also finds processes
import ultraep
from ranks import EXPERTS, start_daemon
from ultraep.torch.maps import load_of, place

from processes import wait_until  # isort: skip  ranks says where it is


class MapsTest(unittest.TestCase):
    RANKS, SLOTS = 2, 2

    def setUp(self):
        self.daemon = start_daemon()
        self.addCleanup(self.daemon.close)
        nonce = os.urandom(16)
        self.clients = [ultraep.Client(self.daemon.socket) for _ in range(self.RANKS)]
        for rank, client in enumerate(self.clients):
            self.addCleanup(client.close)
            client.join(ultraep.Config(name="maps", nonce=nonce, rank=rank, ranks=self.RANKS,
                                       experts=EXPERTS, slots=self.SLOTS, training=False))
        wait_until(lambda: all(c.state().phase is ultraep.Phase.OPEN for c in self.clients), 20,
                   "the group is open")

    def plans(self, maps, sequence=0):
        for client, m in zip(self.clients, maps):
            row = load_of(m)
            client.submit(sequence, 0, 0, row.data_ptr(), EXPERTS)
        return [client.await_verdict(sequence) for client in self.clients]

    def random_map(self, tokens, seed):
        generator = torch.Generator().manual_seed(seed)
        scores = torch.rand(tokens, EXPERTS, generator=generator)
        scores[:, :2] += 0.7
        return torch.zeros(tokens, EXPERTS, dtype=torch.bool).scatter(1, scores.topk(3)[1], True)

    def test_maps_follow_the_quotas_exactly(self):
        per_rank = EXPERTS // self.RANKS + self.SLOTS
        physical = self.RANKS * per_rank
        for step, tokens in enumerate([(100, 80), (0, 41), (1, 1), (500, 3)]):
            maps = [self.random_map(t, 10 * step + r) for r, t in enumerate(tokens)]
            plans = self.plans(maps, step)
            self.assertGreater(len(plans[0].info.replicas), 0 if sum(tokens) > 2 else -1)
            placed = [place(p, m) for p, m in zip(plans, maps)]
            new = [p.routing_map(len(m), physical) for p, m in zip(placed, maps)]
            loads = sum(m.sum(0) for m in new)
            home = [e // (EXPERTS // self.RANKS) * per_rank + e % (EXPERTS // self.RANKS)
                    for e in range(EXPERTS)]
            columns = [[home[e]] for e in range(EXPERTS)]
            for r in plans[0].info.replicas:
                column = r.rank * per_rank + per_rank - self.SLOTS + r.slot
                self.assertEqual(loads[column], r.tokens)
                columns[r.expert].append(column)
            for m, n in zip(maps, new):
                back = torch.stack([n[:, c].sum(1) for c in columns], 1)
                self.assertTrue(torch.equal(back, m.long()))
            peak = loads.view(self.RANKS, -1).sum(1).max()
            self.assertEqual(peak, plans[0].info.peak)
            for m, n, p in zip(maps, new, plans):  # the same however often it is asked
                self.assertTrue(torch.equal(place(p, m).routing_map(len(m), physical), n))

    def test_probs_go_along_and_their_gradients_come_back(self):
        maps = [self.random_map(60, r) for r in range(self.RANKS)]
        for plan, m in zip(self.plans(maps), maps):
            placed = place(plan, m)
            probs = torch.rand(60, EXPERTS).masked_fill(~m, 0).requires_grad_()
            new = placed.probs(probs, 12)
            self.assertTrue(torch.equal(new != 0, placed.routing_map(60, 12)))
            self.assertTrue(torch.equal(new.sort(1)[0][:, -3:], probs.sort(1)[0][:, -3:]))
            weight = torch.rand(60, 12)
            (gradient,) = torch.autograd.grad((new * weight).sum(), probs)
            self.assertTrue(torch.equal(gradient[m].sort()[0], weight[new != 0].sort()[0]))
            self.assertTrue((gradient[~m] == 0).all())

    def test_other_maps_are_refused(self):
        maps = [self.random_map(60, r) for r in range(self.RANKS)]
        plan = self.plans(maps)[0]
        for wrong in (maps[0].int(), maps[0][0], maps[0][:-1]):
            with self.assertRaises(ultraep.InvalidArgument):
                place(plan, wrong)


if __name__ == "__main__":
    unittest.main(verbosity=2)
