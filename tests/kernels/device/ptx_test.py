#!/usr/bin/env python3
"""What nvcc makes of the device kernels, without a device: the instructions that the design counts
on, no spills, registers and shared memory within limits, code for every architecture.

usage: ptx_test.py SOURCE_DIRECTORY [NVCC]
"""

import concurrent.futures
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

SOURCE = pathlib.Path(sys.argv[1])
NVCC = sys.argv[2] if len(sys.argv) > 2 else shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
SM_REGISTERS = 65536
MOST_EXPERTS = 4096  # kMaxExperts

# kernel -> registers of a thread at most. A value that must rise is a reason to look why.
REGISTERS = {
    "ultraep_count_ids": 40,
    "ultraep_count_map": 56,
    "ultraep_submit_row": 40,
    "ultraep_await": 48,
    "ultraep_begin_stream": 40,
    "ultraep_stream": 128,
    "ultraep_stream_bulk": 168,
    "ultraep_await_accepted": 64,
    "ultraep_signal": 64,
    "ultraep_arrive": 64,
    "ultraep_release": 56,
    "ultraep_route_ids": 64,
    "ultraep_route_map": 80,
    "ultraep_prepare": 64,
    "ultraep_publish": 48,
    "ultraep_reduce": 255,
    "ultraep_end_reduce": 32,
}


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, cwd=SOURCE)
    if done.returncode:
        raise AssertionError(f"{' '.join(command)}: {done.stderr}")
    return done.stdout + done.stderr


def traits():
    """name -> (threads, shared bytes, and those per expert), as kernel_list.h has them, and its
    constants."""
    text = (SOURCE / "kernels/device/kernel_list.h").read_text()
    values = {}
    for name, value in re.findall(r"\b(k\w+Bytes|k\w+Stages) = ([\w *+]+)", text):
        values[name] = eval(value, {}, values)
    rows = re.findall(r'\{"(ultraep_\w+)", (\d+), (\w+), (\d+)\}', text)
    return {
        name: (int(threads), eval(shared, {}, values), int(per_expert))
        for name, threads, shared, per_expert in rows
    }, values


def needed_shared(name, architecture):
    """Bytes of shared memory that a block of a kernel needs, and the most that it may ask for."""
    kernels, values = traits()
    _, shared, per_expert = kernels[name]
    if int(re.sub(r"\D", "", architecture)) < 120:
        return shared + per_expert * MOST_EXPERTS, 227 * 1024
    if name == "ultraep_stream_bulk":
        shared += values["kBulkStages"] * (values["kBulkSmallTileBytes"] - values["kBulkTileBytes"])
    return shared + per_expert * MOST_EXPERTS, values["kSmallSharedBytes"]


def compile_all(folder):
    """(source, architecture) -> (cubin, what ptxas said); and source -> PTX for sm_90a."""
    sources = sorted((SOURCE / "kernels/device").glob("*.cu"))
    listed = re.findall(r"sm_(\d+)", run(NVCC, "-code-ls"))
    architectures = [f"sm_{code}a" for code in listed if int(code) >= 90]
    common = [NVCC, "-std=c++20", "-O3", "-I.", "-Werror", "cross-execution-space-call"]

    def one(job):
        source, architecture, kind = job
        out = folder / f"{source.stem}.{architecture}.{kind}"
        said = run(*common, f"-arch={architecture}", f"-{kind}", "-Xptxas", "-v", "-o", str(out),
                   str(source))
        return job, (out, said)

    jobs = [(s, a, "cubin") for s in sources for a in architectures]
    jobs += [(s, "sm_90a", "ptx") for s in sources]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        results = dict(pool.map(one, jobs))
    cubins = {(s, a): out for (s, a, kind), out in results.items() if kind == "cubin"}
    ptx = {s: out[0].read_text() for (s, a, kind), out in results.items() if kind == "ptx"}
    return cubins, ptx


def entries(ptx):
    """kernel -> its text."""
    parts = re.split(r"\.entry (\w+)", ptx)
    return dict(zip(parts[1::2], parts[2::2]))


def elf_names(path):
    """The strings of an ELF file's string tables; fails if it is not one."""
    data = path.read_bytes()
    assert data[:4] == b"\x7fELF" and data[4] == 2, f"{path} is no 64-bit ELF file"
    at, = struct.unpack_from("<Q", data, 40)
    size, count = struct.unpack_from("<HH", data, 58)
    names = set()
    for i in range(count):
        kind, = struct.unpack_from("<I", data, at + i * size + 4)
        where, length = struct.unpack_from("<QQ", data, at + i * size + 24)
        if kind == 3:  # SHT_STRTAB
            names |= set(data[where:where + length].decode("ascii").split("\0"))
    return names


class PtxTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.cubins, cls.ptx = compile_all(pathlib.Path(cls.folder.name))
        cls.kernels = {}
        for text in cls.ptx.values():
            cls.kernels |= entries(text)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def test_the_kernels_are_those_of_the_list(self):
        self.assertEqual(set(self.kernels), set(traits()[0]))
        self.assertEqual(set(REGISTERS), set(traits()[0]))

    def test_threads_are_those_of_the_list(self):
        for name, (threads, _, _) in traits()[0].items():
            self.assertRegex(self.kernels[name], rf"\.maxntid {threads}(, 1, 1)?\n", name)

    def test_ptx_is_for_the_architecture_with_bulk_copies(self):
        for text in self.ptx.values():
            self.assertIn(".target sm_90a", text)

    def test_bulk_copies_and_their_order(self):
        kernel = self.kernels["ultraep_stream_bulk"]
        for instruction in (
                "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes",
                "cp.async.bulk.global.shared::cta.bulk_group",
                "mbarrier.init.shared::cta.b64",
                "mbarrier.arrive.expect_tx",
                "mbarrier.try_wait.parity",
                "fence.proxy.async",
                "fence.acq_rel.sys",
                "ld.acquire.sys.global.u64"):
            self.assertIn(instruction, kernel)

    def test_aligned_weights_move_by_bulk_copies_only(self):
        # Threads copy what is not aligned to 16 bytes, by 4 bytes or 1, and the last 15 bytes. 16
        # bytes at a time is how they would copy the rest, as the other kernel does.
        wide = r"(ld|st)[a-z.]*\.v4\."
        self.assertRegex(self.kernels["ultraep_stream"], wide)
        self.assertNotRegex(self.kernels["ultraep_stream_bulk"], wide)
        self.assertNotIn("cp.async.bulk", self.kernels["ultraep_stream"])

    def test_flags_are_of_system_scope(self):
        for name in ("stream", "stream_bulk", "signal", "begin_stream", "publish", "reduce"):
            self.assertIn("fence.acq_rel.sys", self.kernels["ultraep_" + name], name)
        for name in ("await", "await_accepted", "arrive", "prepare", "reduce", "stream"):
            self.assertIn("ld.acquire.sys.global.u64", self.kernels["ultraep_" + name], name)
        for name in ("count_ids", "count_map", "submit_row"):  # the row's stamp
            self.assertRegex(self.kernels["ultraep_" + name],
                             r"fence\.acq_rel\.sys;[^}]*st\.relaxed\.sys", name)

    def test_nothing_spills_and_registers_and_shared_memory_suffice(self):
        seen = set()
        for (_, architecture), (_, said) in self.cubins.items():
            for name, facts in re.findall(
                    r"Compiling entry function '(\w+)'(.*?)(?=Compiling entry|\Z)", said, re.S):
                where = f"{name} for {architecture}"
                threads, _, _ = traits()[0][name]
                # Also of functions that are not inlined.
                self.assertEqual(set(re.findall(r"(\d+) bytes spill", facts)), {"0"}, where)
                registers = int(re.search(r"Used (\d+) registers", facts).group(1))
                self.assertLessEqual(registers, REGISTERS[name], where)
                self.assertLessEqual(-(-registers // 8) * 8 * threads, SM_REGISTERS, where)
                # All of it is asked for at the launch.
                self.assertNotIn("bytes smem", facts, where)
                self.assertLessEqual(*needed_shared(name, architecture), where)
                seen.add((name, architecture))
        architectures = {architecture for _, architecture in self.cubins}
        self.assertEqual(len(seen), len(architectures) * len(REGISTERS))

    def test_there_is_code_for_every_architecture(self):
        names = {}
        for (_, architecture), (cubin, _) in self.cubins.items():
            names.setdefault(architecture, set()).update(elf_names(cubin))
        self.assertLessEqual({"sm_90a", "sm_100a"}, set(names))
        for architecture, found in names.items():
            self.assertLessEqual(set(REGISTERS), found, architecture)


if __name__ == "__main__":
    if not os.access(NVCC, os.X_OK):
        print(f"ptx_test: skipped: no nvcc ({NVCC})")
        sys.exit(77)
    unittest.main(argv=sys.argv[:1])
