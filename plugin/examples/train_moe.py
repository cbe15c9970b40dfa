"""Trains a small Mixture-of-Experts language model on text: plain, balanced, and ideal.

    python train_moe.py --mode all

starts its rank processes and, without --socket, a daemon of its own (ultraepd from PATH). Modes:
none is the plain layer, balanced the same with ultraep, ideal routes tokens to all experts in turn:
what balancing is measured against. `all` trains all three with one seed, a few steps each in turn, so
that a noisy machine disturbs them alike; ratios are medians over these rounds.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent))
from moe_lm.expert_share import seconds_of_experts
from moe_lm.model import MoELanguageModel, Shape
from moe_lm.training import Text, Trainer, all_loads, imbalances

LICENSES = "/usr/share/common-licenses"  # Debian's base-files: on every system
AGAIN = "ideal again"  # what two equal runs differ by on this machine
WATCHED = "ideal with ultraep"  # what it costs where there is nothing to balance


def parse(arguments: list[str]) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--mode", choices=["none", "balanced", "ideal", "all"], default="all",
                   help="plain layer, with ultraep, forced even routing, or all of them in turn")
    p.add_argument("--rounds", type=int, default=10, help="rounds that are timed")
    p.add_argument("--round-steps", type=int, default=2, help="steps of a mode in a round")
    p.add_argument("--warmup-rounds", type=int, default=1, help="rounds before these")
    p.add_argument("--imbalance", type=float, default=1.5,
                   help="that the gate is held at: tokens of the fullest rank / mean")
    p.add_argument("--move-every", type=int, default=3, help="steps until other experts are hot")
    p.add_argument("--ranks", type=int, default=2, help="processes of the EP group")
    p.add_argument("--threads", type=int, default=1, help="of each rank")
    p.add_argument("--layers", type=int, default=2, help="each with attention and experts")
    p.add_argument("--experts", type=int, default=16, help="logical, of a layer")
    p.add_argument("--top-k", type=int, default=2, help="experts of a token")
    p.add_argument("--slots", type=int, default=4, help="redundant slots per rank")
    p.add_argument("--hidden", type=int, default=256, help="size of a token")
    p.add_argument("--ffn", type=int, default=1024, help="inner size of an expert")
    p.add_argument("--heads", type=int, default=4, help="of attention")
    p.add_argument("--batch", type=int, default=32, help="sequences per rank")
    p.add_argument("--length", type=int, default=128, help="tokens of a sequence")
    p.add_argument("--learning-rate", type=float, default=1e-4, help="of AdamW")
    p.add_argument("--seed", type=int, default=1, help="of weights and batches")
    p.add_argument("--text", nargs="+", default=[LICENSES], help="files or folders to learn")
    p.add_argument("--socket", help="of a running daemon; default: one is started")
    p.add_argument("--trace", help="write the balanced (or only) run's loads here, for "
                   "ultraep-replay --trace: .npy, uint32 [steps, layers, ranks, experts]")
    p.add_argument("--json", action="store_true", help="the last line is the result as one object")
    options = p.parse_args(arguments)
    check(p, options)
    return options


def check(p: argparse.ArgumentParser, o: argparse.Namespace) -> None:
    for name in ("rounds", "round_steps", "move_every", "ranks", "threads", "layers", "experts",
                 "top_k", "hidden", "ffn", "heads", "batch", "length"):
        if getattr(o, name) < 1:
            p.error(f"--{name.replace('_', '-')} is {getattr(o, name)}, must be at least 1")
    if o.warmup_rounds < 0:
        p.error(f"--warmup-rounds is {o.warmup_rounds}, must not be negative")
    if not 0 <= o.slots <= 32:
        p.error(f"--slots is {o.slots}, must be 0..32")
    if o.trace and not os.access(os.path.dirname(os.path.abspath(o.trace)), os.W_OK):
        p.error(f"--trace {o.trace} cannot be written")
    if o.experts % o.ranks:
        p.error(f"--experts is {o.experts}, must be a multiple of --ranks ({o.ranks})")
    if o.top_k > o.experts:
        p.error(f"--top-k is {o.top_k}, there are {o.experts} experts")
    if o.hidden % o.heads:
        p.error(f"--hidden is {o.hidden}, must be a multiple of --heads ({o.heads})")
    if not 1 <= o.imbalance <= o.ranks:
        p.error(f"--imbalance is {o.imbalance}, must be 1..{o.ranks} (--ranks)")
    if len(read_text(o.text)) <= o.length:
        p.error(f"--text {' '.join(o.text)} has too little text for --length {o.length}")


def read_text(paths: list[str]) -> bytes:
    """Named files, and all below named folders that are no links to others there."""
    files = [f for p in map(Path, paths) for f in
             ([f for f in sorted(p.rglob("*")) if not f.is_symlink()] if p.is_dir() else [p])]
    return b"\n".join(f.read_bytes() for f in files if f.is_file())


@contextmanager
def daemon_for(options: argparse.Namespace, directory: str) -> Iterator[None]:
    """A daemon of our own while the ranks run, unless one is named or none is needed."""
    if options.socket or options.mode in ("none", "ideal"):
        yield
        return
    program = shutil.which("ultraepd")
    if program is None:
        sys.exit("train_moe: ultraepd is not on PATH: add build/bin to it, or name a running "
                 "daemon with --socket")
    options.socket = os.path.join(directory, "ultraepd.sock")
    with open(os.path.join(directory, "ultraepd.log"), "w+b") as log:
        process = subprocess.Popen(
            [program, "--socket", options.socket, "--metrics_listen", "off"], stderr=log)
        try:
            for _ in range(200):
                if os.path.exists(options.socket) or process.poll() is not None:
                    break
                time.sleep(0.05)
            if process.poll() is not None:
                log.seek(0)
                sys.exit(f"train_moe: ultraepd did not start:\n{log.read().decode()}")
            yield
        finally:
            process.terminate()
            process.wait()


def make_trainer(mode: str, o: argparse.Namespace, rank: int, data: bytes) -> Trainer:
    shape = Shape(o.layers, o.hidden, o.ffn, o.heads, o.experts, o.top_k, o.ranks)
    model = MoELanguageModel(shape, rank, o.imbalance, o.move_every, mode.startswith("ideal"),
                             mode in ("balanced", WATCHED), o.seed, o.length, slots=o.slots,
                             socket=o.socket, wait=20.0, name="train-moe")
    return Trainer(model, Text(data, o.batch, o.length, rank, o.seed), o.learning_rate)


def run_rank(rank: int, options: argparse.Namespace, directory: str) -> None:
    torch.set_num_threads(options.threads)
    dist.init_process_group("gloo", init_method=f"file://{directory}/rendezvous", rank=rank,
                            world_size=options.ranks)
    modes = [options.mode]
    if options.mode == "all":
        modes = ["none", "balanced", "ideal", AGAIN, WATCHED]
    data = read_text(options.text)
    trainers = {mode: make_trainer(mode, options, rank, data) for mode in modes}
    rounds = options.warmup_rounds + options.rounds
    with tqdm(total=rounds * len(modes), unit="stretch", disable=rank != 0) as bar:
        for number in range(rounds):
            turn = number % len(modes)  # whoever comes first after a pause pays for it
            for mode in modes[turn:] + modes[:turn]:
                bar.set_description(mode)
                trainers[mode].stretch(options.round_steps, number >= options.warmup_rounds)
                bar.update()
    result = summarize(trainers, options, rank)
    if rank == 0:
        Path(directory, "result.json").write_text(json.dumps(result))
    for trainer in trainers.values():
        if trainer.model.balancer:
            trainer.model.balancer.close()
    dist.destroy_process_group()


def summarize(trainers: dict[str, Trainer], o: argparse.Namespace, rank: int) -> dict:
    """The result that --json prints. Collective."""
    runs = []
    for mode, trainer in trainers.items():
        loads = all_loads(trainer.seen, o.layers)
        before, after = imbalances(loads, trainer.seen.peaks)
        seconds = statistics.median(trainer.seen.seconds)
        runs.append({"mode": mode, "tokens_per_second": o.ranks * o.batch * o.length / seconds,
                     "imbalance_before": before, "imbalance_after": after,
                     "verdicts": trainer.seen.verdicts, "seconds": trainer.seen.seconds,
                     "loss": trainer.seen.loss})
        if o.trace and rank == 0 and mode == ("balanced" if o.mode == "all" else o.mode):
            import numpy
            numpy.save(o.trace, loads.numpy().astype(numpy.uint32))
    seconds = {mode: t.seen.seconds for mode, t in trainers.items()}
    result = {"runs": [r for r in runs if r["mode"] not in (AGAIN, WATCHED)]}
    if o.mode == "all":
        result["ratios"] = {
            "balanced / ideal": ratio(seconds["ideal"], seconds["balanced"]),
            "balanced / none": ratio(seconds["none"], seconds["balanced"]),
            f"{WATCHED} / ideal": ratio(seconds["ideal"], seconds[WATCHED]),
            f"{AGAIN} / ideal": ratio(seconds["ideal"], seconds[AGAIN]),
        }
        result["expert_share"] = (seconds_of_experts(trainers["ideal"].model, o.batch * o.length) /
                                  statistics.median(seconds["ideal"]))
    return result


def ratio(slow: list[float], fast: list[float]) -> dict[str, float]:
    """Of throughputs, paired by round: median, quartiles."""
    ratios = [s / f for s, f in zip(slow, fast)]
    quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return {"median": statistics.median(ratios), "q1": quartiles[0], "q3": quartiles[2]}


def print_result(result: dict) -> None:
    print(f"{'mode':10} {'tokens/s':>10} {'imbalance':>9} {'after':>6} {'loss':>16}  steps by verdict")
    for run in result["runs"]:
        verdicts = ", ".join(f"{n} {name}" for name, n in run["verdicts"].items())
        print(f"{run['mode']:10} {run['tokens_per_second']:10.0f} {run['imbalance_before']:9.3f} "
              f"{run['imbalance_after']:6.3f} {run['loss'][0]:7.4f} -> {run['loss'][-1]:.4f}  "
              f"{verdicts}")
    for name, r in result.get("ratios", {}).items():
        print(f"throughput {name}: {r['median']:.3f} (quartiles {r['q1']:.3f}, {r['q3']:.3f})")
    if "expert_share" in result:
        print(f"experts' compute: {result['expert_share']:.0%} of the ideal step")


def main() -> None:
    options = parse(sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ranks and daemon end with us
    with tempfile.TemporaryDirectory(prefix="train-moe-") as directory:
        with daemon_for(options, directory):
            # Forked: PyTorch is imported once.
            mp.start_processes(run_rank, (options, directory), nprocs=options.ranks,
                               start_method="fork", daemon=True)
        result = json.loads(Path(directory, "result.json").read_text())
    print_result(result)
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
