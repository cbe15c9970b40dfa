"""Rank processes of a gloo group for tests, and a daemon for them. Ranks are forked: torch is
imported once."""

import multiprocessing
import os
import shutil
import sys
import tempfile
import unittest
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn

import ultraep.torch as ut

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "support"))
from processes import Daemon

HIDDEN, FFN, EXPERTS, TOP_K = 32, 64, 8, 2


def start_daemon(*flags):
    program = shutil.which("ultraepd")
    assert program, "ultraepd is not on PATH"
    return Daemon(os.path.dirname(program), *flags)


class Lost(Exception):
    """Ranks raised or died. errors: (rank, type's name, text) of each; results: the others'."""

    def __init__(self, errors, results):
        super().__init__(errors)
        self.errors, self.results = errors, results


def run_ranks(function, *args, ranks=2, timeout=120):
    """function(rank, ranks, *args) in every rank; its results, or Lost."""
    with tempfile.TemporaryDirectory() as directory:
        context = multiprocessing.get_context("fork")
        answers = context.SimpleQueue()
        processes = [
            context.Process(target=_rank, args=(function, r, ranks, directory, answers, args))
            for r in range(ranks)
        ]
        for p in processes:
            p.start()
        for p in processes:
            p.join(timeout)
        late = [r for r, p in enumerate(processes) if p.is_alive()]
        for r in late:
            processes[r].kill()
        found = {}
        while not answers.empty():
            rank, ok, value = answers.get()
            found[rank] = ok, value
    if late:
        raise AssertionError(f"ranks {late} hang; the others: {found}")
    lost = [(r, *found.get(r, (False, ("Died", "")))[1]) for r in range(ranks)
            if not found.get(r, (False,))[0]]
    if lost:
        raise Lost(lost, {r: value for r, (ok, value) in found.items() if ok})
    return [found[r][1] for r in range(ranks)]


def _rank(function, rank, ranks, directory, answers, args):
    try:
        torch.set_num_threads(1)
        dist.init_process_group("gloo", init_method=f"file://{directory}/store", rank=rank,
                                world_size=ranks, timeout=timedelta(seconds=30))
        answers.put((rank, True, function(rank, ranks, *args)))
    except BaseException as e:
        answers.put((rank, False, (type(e).__name__, str(e))))
    finally:
        sys.stdout.flush()
        os._exit(0)  # forked: nothing of the parent's is this process's to clean up


class DaemonTest(unittest.TestCase):
    """One daemon for all tests; ranks run function(rank, ranks, its socket, *args)."""

    @classmethod
    def setUpClass(cls):
        cls.daemon = start_daemon()
        cls.addClassCleanup(cls.daemon.close)

    def run_ranks(self, function, *args, **options):
        return run_ranks(function, self.daemon.socket, *args, **options)

    def lost(self, function, *args):
        """What the ranks that raised or died say, see Lost.errors."""
        with self.assertRaises(Lost) as raised:
            self.run_ranks(function, *args)
        return raised.exception.errors


def skewed_gate(bias, experts=EXPERTS, top_k=TOP_K, hidden=HIDDEN):
    """A fixed router, the same on all ranks, with a bonus for the first experts."""
    weight = torch.randn(hidden, experts, generator=torch.Generator().manual_seed(3)) * 0.1
    bonus = torch.zeros(experts)
    bonus[:2] = bias

    def gate(x):
        probabilities = torch.softmax(x.float() @ weight + bonus, dim=1)
        return probabilities.topk(top_k, dim=1)

    return gate


def make_experts(rank, ranks, dtype=torch.float32, **options):
    """This rank's experts; expert e has the same weights wherever it is made."""
    experts = []
    for e in range(rank * EXPERTS // ranks, (rank + 1) * EXPERTS // ranks):
        torch.manual_seed(100 + e)
        experts.append(ut.TiledExpert(HIDDEN, FFN, tile=16, **options).to(dtype))
    return nn.ModuleList(experts)


def make_layers(rank, ranks, socket, dtype=torch.float32, bias=2.0, **options):
    """(plain layer, balanced layer) on the same experts; the group is open."""
    experts = make_experts(rank, ranks, dtype)
    options = {"slots": 2, "wait": 20.0, "step_timeout": 20.0, **options}
    balancer = ut.make_balancer(experts, socket=socket, **options)
    gate = skewed_gate(bias)
    return ut.BalancedMoE(gate, experts), ut.BalancedMoE(gate, experts, balancer)


def inputs(rank, tokens, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1000 * seed + rank)
    return torch.randn(tokens, HIDDEN, generator=generator).to(dtype).requires_grad_()


def gradients(layer, x, y):
    """Of a fixed function of y: (x's, those of the experts' parameters)."""
    weight = torch.linspace(-1, 1, y.shape[-1], dtype=y.dtype)
    first, *rest = torch.autograd.grad((y * weight).sum(), [x, *layer.experts.parameters()],
                                       allow_unused=True)
    return first, rest


def worst(found, expected):
    """The largest difference, relative to the largest expected element."""
    return max(((a.double() - b.double()).abs().max() / b.double().abs().max().clamp(min=1e-12)).item()
               for a, b in zip(found, expected))
