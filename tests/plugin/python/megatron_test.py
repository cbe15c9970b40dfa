"""Balanced MoELayers of Megatron-Core on real ranks and a real daemon.

The layers, routers, dispatchers, experts, transformer layers, recompute and DistributedDataParallel
are megatron-core's. Stood in for, because the machine has no GPU: see `without_cuda`. Not run:
experts, dispatchers and fusions that need CUDA kernels; `balance` refuses these.
"""

import contextlib
import dataclasses
import os
import unittest
import warnings

import torch
import torch.nn.functional as F
from torch import nn

import ultraep
import ultraep.torch as ut
from ranks import DaemonTest, run_ranks, worst

try:
    import megatron.core  # noqa: F401
    HAVE_MEGATRON = True
except ImportError:
    HAVE_MEGATRON = False

HIDDEN, FFN, EXPERTS, TOKENS = 32, 64, 8, (48, 2)


def without_cuda():
    """megatron-core calls these whatever the tensors' device is. As on a GPU where every stream is
    the default one: `current_device` names where new tensors go, streams order what is in order
    anyhow, a random state is saved and restored, and splits reach the all-to-all as numpy."""
    from megatron.core.transformer.moe import moe_utils, token_dispatcher

    class Stream:
        def __getattr__(self, name):
            return lambda *args: self

    stream = Stream()
    torch.cuda.current_device = lambda: torch.device("cpu")
    torch.cuda.Stream = torch.cuda.current_stream = lambda *args, **options: stream
    torch.cuda.stream = lambda s: contextlib.nullcontext()
    torch.cuda.random.get_rng_state = lambda *args, **options: torch.zeros(0, dtype=torch.uint8)

    def move(tensor, as_numpy=False, record_stream=False):
        return tensor.numpy() if as_numpy and torch.is_tensor(tensor) else tensor

    token_dispatcher.maybe_move_tensor_to_cpu = move
    # Attention draws its dropout, here of nothing, from a random state of the tensor-parallel rank.
    tensor_parallel.random.CudaRNGStatesTracker.fork = lambda *args: contextlib.nullcontext()
    if not hasattr(moe_utils, "te_general_gemm"):  # 0.16 forgets it without Transformer Engine
        moe_utils.te_general_gemm = None


if HAVE_MEGATRON:
    from megatron.core import parallel_state, tensor_parallel
    from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
    from megatron.core.transformer.mlp import MLPSubmodules
    from megatron.core.transformer.moe.experts import SequentialMLP
    from megatron.core.transformer.moe.moe_layer import MoELayer, MoESubmodules
    from megatron.core.transformer.moe.shared_experts import SharedExpertMLP
    from megatron.core.transformer.spec_utils import ModuleSpec, build_module
    from megatron.core.transformer.transformer_config import TransformerConfig

    import ultraep.megatron as um
    without_cuda()


class TiledLinear(nn.Module):
    """A linear module for Megatron's MLP whose rows do not depend on each other."""

    def __init__(self, inputs, outputs, *, config, init_method, bias, **ignored):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, dtype=config.params_dtype))
        init_method(self.weight)
        self.bias = nn.Parameter(torch.rand(outputs)) if bias else None

    def forward(self, x):
        lead = x.shape[:-1]
        rows = ut.tiled_linear(x.reshape(-1, x.shape[-1]), self.weight, 16)
        return rows.view(*lead, len(self.weight)), self.bias


def config(ranks, **options):
    if not parallel_state.is_initialized():
        parallel_state.initialize_model_parallel(expert_model_parallel_size=ranks)
    return TransformerConfig(**{
        **dict(num_layers=2, hidden_size=HIDDEN, num_attention_heads=2, ffn_hidden_size=FFN,
               moe_ffn_hidden_size=FFN, num_moe_experts=EXPERTS, moe_router_topk=2,
               expert_model_parallel_size=ranks, add_bias_linear=False, gated_linear_unit=True,
               activation_func=F.silu, bias_activation_fusion=False, use_cpu_initialization=True,
               moe_token_dispatcher_type="alltoall", moe_router_load_balancing_type="none",
               hidden_dropout=0.0, attention_dropout=0.0), **options
    })


def submodules(linear_fc1, linear_fc2):
    linear = MLPSubmodules(linear_fc1=linear_fc1, linear_fc2=linear_fc2)
    return MoESubmodules(experts=ModuleSpec(SequentialMLP, submodules=linear),
                         shared_experts=ModuleSpec(SharedExpertMLP, submodules=linear))


def make_layer(rank, ranks, tiled=True, **options):
    linear = [TiledLinear] * 2 if tiled else [ColumnParallelLinear, RowParallelLinear]
    return fill(MoELayer(config(ranks, **options), submodules(*linear), layer_number=1), rank)


def fill(module, rank):
    """The same weights whenever it is asked, experts' by rank; routers prefer experts 0 and 1."""
    with torch.no_grad():
        for number, (name, p) in enumerate(module.named_parameters()):
            own = rank if "local_experts" in name else 0
            generator = torch.Generator().manual_seed(number + 50 * own)
            p.copy_(torch.randn(p.shape, generator=generator) * 0.2)
            if "router" in name:
                p *= 0.5
                p[:2] += 0.1
    return module


def balance(moe, socket, **options):
    balancer = ut.make_balancer(moe.experts.local_experts, moe.ep_group, socket=socket, wait=20,
                                slots=2, step_timeout=20)
    return um.balance(moe, balancer, **options)


def inputs(rank, seed=0, tokens=TOKENS, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1000 * seed + rank)
    return (torch.randn(*tokens, HIDDEN, generator=generator) + 0.5).to(dtype).requires_grad_()


def run(function, x, parameters):
    """(y, gradients of x and the parameters), through .grad as a trainer would."""
    for t in (x, *parameters):
        t.grad = None
    y = function(x)
    y = y[0] if isinstance(y, tuple) else y
    (y * torch.linspace(-1, 1, HIDDEN, dtype=y.dtype)).sum().backward()
    return y.detach(), [t.grad for t in (x, *parameters)]


def compare(rank, ranks, socket, options, prepare=None):
    """The same layer without and with balancing: which results have the same bits, and how far the
    expert gradients are apart."""
    moe = make_layer(rank, ranks, **options)
    seen = []


    def see(module, given, result):
        if result[0].requires_grad:
            result[0].retain_grad()
            seen.append(result[0])

    moe.router.register_forward_hook(see)
    own = list(moe.parameters())
    before = [list(moe.state_dict()), [n for n, _ in moe.named_parameters()]]
    x = inputs(rank)
    y, (gx, *gp) = run(moe, x, own)
    balance(moe, socket)
    y1, (gx1, *gp1) = run(moe, x, own)
    with torch.no_grad():
        same_without_gradients = torch.equal(y, moe(x)[0])
    plan = moe.last_plan
    return {
        "names": before == [list(moe.state_dict()), [n for n, _ in moe.named_parameters()]],
        "y": torch.equal(y, y1), "no_grad": same_without_gradients, "x": torch.equal(gx, gx1),
        "probs": torch.equal(seen[0].grad, seen[-1].grad),
        "router": torch.equal(gp[0], gp1[0]),
        "far": worst([y1, gx1, *gp1], [y, gx, *gp]),
        "imbalance": plan.imbalance(ranks), "replicas": len(plan.replicas),
    }


def recomputed(rank, ranks, socket, options):
    """With Megatron's recompute: the same bits as without, in any order of microbatches."""
    found = []
    for settings in ({}, options):
        moe = balance(make_layer(rank, ranks, **settings), socket)
        xs = [inputs(rank, m) for m in range(3)]
        if "recompute_method" in settings:  # as a TransformerBlock does
            ys = [tensor_parallel.checkpoint(lambda z: torch.tanh(moe(z)[0]), False, x) for x in xs]
        else:
            ys = [torch.tanh(moe(x)[0]) for x in xs]
        assert moe.last_plan.replicas, moe.last_plan
        for m in (1, 2, 0):
            ys[m].square().sum().backward()
        found.append([x.grad for x in xs] + [p.grad for p in moe.parameters()])
        moe._steps.balancer.close()
    return all(map(torch.equal, *found))


def recomputed_without_plan(rank, ranks, socket):
    moe = balance(make_layer(rank, ranks), socket)  # its config does not speak of recompute
    tensor_parallel.checkpoint(lambda x: moe(x)[0], False, inputs(rank)).sum().backward()


def without_daemon(rank, ranks, directory):
    moe = make_layer(rank, ranks)
    x, own = inputs(rank), list(moe.parameters())
    y, gradients = run(moe, x, own)
    balancer = ut.make_balancer(moe.experts.local_experts, moe.ep_group,
                                socket=os.path.join(directory, "none"))
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        y1, gradients1 = run(um.balance(moe, balancer), x, own)
    return (torch.equal(y, y1), all(map(torch.equal, gradients, gradients1)),
            moe.last_plan.verdict, [str(w.message) for w in warned if "ultraep" in str(w.message)])


def refusals(rank, ranks, socket):
    """What `balance` says, by what was changed in a layer that would be balanced."""
    moe = make_layer(rank, ranks)
    experts, dispatcher = moe.experts, moe.token_dispatcher
    balancer = ut.make_balancer(experts.local_experts, moe.ep_group, socket=socket, wait=20)
    said = {}

    def refused(name):
        try:
            um.balance(moe, balancer)
            said[name] = None
        except ultraep.InvalidArgument as e:
            said[name] = str(e)
        assert type(moe) is MoELayer and moe.token_dispatcher is dispatcher, name

    for name, allowed, _ in um._REFUSED:
        setattr(moe.config, name, "other")
        refused(name)
        setattr(moe.config, name, allowed[0])
    moe.experts = nn.Identity()
    refused("experts")
    moe.experts = experts
    dispatcher.tp_size = 2
    refused("expert_tensor_parallel_size")
    dispatcher.tp_size = 1
    own = balancer.config
    for name, value in (("rank", 1 - rank), ("shard_bytes", (4, 4))):
        balancer.config = dataclasses.replace(own, **{name: value})
        refused(name)
    balancer.config = own
    um.balance(moe, balancer)
    try:
        um.balance(moe, balancer)
    except ultraep.InvalidArgument as e:
        said["again"] = str(e)
    moe.experts.local_experts[0].linear_fc1.register_forward_pre_hook(lambda *args: None)
    try:
        moe(inputs(rank))
    except ultraep.InvalidArgument as e:
        said["hook"] = str(e)
    return said


class Blocks(nn.Module):
    """Two of Megatron's transformer layers, with attention."""

    def __init__(self, rank, ranks):
        super().__init__()
        spec = get_gpt_layer_local_spec(num_experts=EXPERTS, moe_grouped_gemm=False)
        spec.submodules.mlp = ModuleSpec(MoELayer, submodules=submodules(TiledLinear, TiledLinear))
        self.config = config(ranks)
        self.layers = nn.ModuleList(
            build_module(spec, config=self.config, layer_number=n) for n in (1, 2))
        for layer in self.layers:
            fill(layer, rank)

    def forward(self, x):
        mask = torch.ones(1, 1, len(x), len(x), dtype=torch.bool).triu(1)
        for layer in self.layers:
            x, _ = layer(hidden_states=x, attention_mask=mask)
        return x


def blocks(rank, ranks, socket):
    """Under Megatron's DistributedDataParallel: main_grad of two microbatches, over all ranks."""
    found, numbers, joined = [], [], []
    for balanced in (False, True):
        model = Blocks(rank, ranks)
        if balanced:
            balancer = um.balance_model([model], socket=socket, slots=2, wait=20)
            model.layers[1].input_layernorm.register_forward_pre_hook(
                lambda module, given: joined.append("Join" in given[0].grad_fn.name()))
        settings = DistributedDataParallelConfig(grad_reduce_in_fp32=True)
        ddp = DistributedDataParallel(model.config, settings, model)
        y = []
        for m in range(2):
            for layer in model.layers:
                layer.current_microbatch = m
            y.append(ddp(inputs(rank, m)))
            if balanced:
                numbers += [(b.mlp.last_plan.layer, b.mlp.last_plan.microbatch)
                            for b in model.layers]
        for output in y:
            (output * torch.linspace(-1, 1, HIDDEN)).sum().backward()
        ddp.finish_grad_sync()
        found.append((y, [p.main_grad.clone() for p in model.parameters()]))
    assert balancer.config.layers == 2 and joined == [True, True]  # sums end behind attention's
    same = all(map(torch.equal, found[0][0], found[1][0]))
    return same, worst(found[1][1], found[0][1]), numbers


@unittest.skipUnless(HAVE_MEGATRON, "megatron-core is not installed")
class MegatronTest(DaemonTest):

    def check(self, options, same=("y", "no_grad", "x", "probs", "router"), ranks=2):
        with self.subTest(options):
            for found in self.run_ranks(compare, options, ranks=ranks):
                self.assertTrue(found["names"])
                self.assertEqual([], [name for name in same if not found[name]], found)
                self.assertLess(found["far"], 2e-6)
                self.assertGreater(found["replicas"], 0)
                before, after = found["imbalance"]
                self.assertGreater(before, 1.3)
                self.assertLess(after, 1.05)

    def test_all_to_all_keeps_every_bit_but_the_association_of_expert_gradients(self):
        for options in ({}, {"moe_router_topk": 3}, {"add_bias_linear": True},
                        {"moe_expert_capacity_factor": 0.9}, {"moe_router_dtype": "fp64"},
                        {"moe_router_load_balancing_type": "aux_loss", "moe_aux_loss_coeff": 0.1}):
            self.check(options)
        self.check({"moe_router_topk": 3}, ranks=4)

    def test_shared_experts(self):
        for overlap in (False, True):
            self.check({"moe_shared_expert_intermediate_size": FFN,
                        "moe_shared_expert_overlap": overlap})

    def test_all_gather_adds_by_rank(self):
        self.check({"moe_token_dispatcher_type": "allgather"})  # a + b = b + a
        self.check({"moe_token_dispatcher_type": "allgather", "moe_router_topk": 3},
                   same=("probs", "router"))

    def test_megatrons_own_linear_layers_differ_by_rounding_only(self):
        # Their products may sum in another order when an instance has other rows.
        self.check({"tiled": False}, same=())

    def test_recompute_follows_the_plans_of_the_forward(self):
        for options in ({"recompute_granularity": "selective", "recompute_modules": ["moe"]},
                        {"recompute_granularity": "full", "recompute_method": "uniform",
                         "recompute_num_layers": 1}):
            with self.subTest(options):
                self.assertEqual(self.run_ranks(recomputed, options), [True, True])

    def test_a_recompute_without_its_plan_is_refused(self):
        errors = self.lost(recomputed_without_plan)
        for _, kind, text in errors:
            self.assertEqual(kind, "InvalidArgument")
            self.assertIn("recomputed without its plan", text)

    def test_transformer_layers_under_megatrons_data_parallel(self):
        for same, far, numbers in self.run_ranks(blocks):
            self.assertTrue(same)
            self.assertLess(far, 2e-6)
            self.assertEqual(numbers, [(0, 0), (1, 0), (0, 1), (1, 1)])

    def test_without_a_daemon_it_is_megatrons_layer(self):
        for same, same_gradients, verdict, warned in run_ranks(without_daemon,
                                                               self.daemon.directory):
            self.assertTrue(same and same_gradients)
            self.assertIs(verdict, ultraep.Verdict.DECLINED)
            self.assertEqual(len(warned), 1, warned)

    def test_what_is_not_supported_is_refused_and_changes_nothing(self):
        for said in self.run_ranks(refusals):
            for name, text in said.items():
                self.assertIn({"again": "balanced already", "hook": "overlap_param_gather",
                               "rank": "of the balancer's"}.get(name, name), text or "", name)
            self.assertIn("gradient_accumulation_fusion", said)


if __name__ == "__main__":
    unittest.main(verbosity=2)
