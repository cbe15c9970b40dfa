"""Users and jobs are apart, and one user's appetite is limited. Needs root for other users' part.

usage: isolation_test.py BIN_DIR
"""

import ctypes
import os
import resource
import socket
import struct
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from processes import Daemon, wait_until  # noqa: E402

BIN = ""
HERE = os.path.abspath(__file__)
ALICE, BOB, DAEMON = 61001, 61002, 61003
OPEN = 2


class Config(ctypes.Structure):
    _fields_ = [(n, ctypes.c_uint32) for n in ("struct_size", "rank")] + [
        ("group_name", ctypes.c_char_p), ("nonce", ctypes.c_uint8 * 16)] + [
        (n, ctypes.c_uint32) for n in (
            "ranks", "experts", "slots", "layers", "window", "slot_sets", "domain_size",
            "training", "shard_count", "gradient_count")] + [
        (n, ctypes.c_uint64 * 8) for n in ("shard_bytes", "gradient_bytes")] + [
        (n, ctypes.c_uint64) for n in (
            "step_timeout_ns", "solve_deadline_ns", "next_sequence", "fallback_tokens")] + [
        (n, ctypes.c_uint32) for n in (
            "copy_threads", "memory", "device", "stream_blocks", "reduce_blocks", "unused")]


class Info(ctypes.Structure):
    _fields_ = [("phase", ctypes.c_int), ("generation", ctypes.c_uint64),
                ("text", ctypes.c_char * 512), ("generations", ctypes.c_uint64),
                ("last_gap_ns", ctypes.c_uint64)]


class Options(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_uint32), ("socket_path", ctypes.c_char_p)]


def member(library, socket, rank, nonce):
    """A rank in a process of its own: joins, prints its state whenever a line comes in."""
    lib = ctypes.CDLL(library)
    lib.ultraep_last_error.restype = ctypes.c_char_p
    client = ctypes.c_void_p()
    options = Options(ctypes.sizeof(Options), socket.encode())
    assert lib.ultraep_attach(ctypes.byref(options), ctypes.byref(client)) == 0
    config = Config(struct_size=ctypes.sizeof(Config), rank=rank, group_name=b"job", ranks=2,
                    experts=4, slots=1, layers=1, window=1, slot_sets=1, shard_count=1,
                    step_timeout_ns=10**10)
    config.nonce[0] = nonce
    config.shard_bytes[0] = 1 << 20
    assert lib.ultraep_join(client, ctypes.byref(config), ctypes.c_int64(0)) == 0, \
        lib.ultraep_last_error()
    for _ in sys.stdin:
        info = Info()
        assert lib.ultraep_client_state(client, ctypes.byref(info)) == 0
        print(info.phase, info.text.decode().replace("\n", " "), flush=True)
    lib.ultraep_detach(client)


class Member:
    def __init__(self, daemon, rank, nonce=1, uid=None):
        library = os.path.join(BIN, "..", "lib", "libultraep.so")
        self.process = subprocess.Popen(
            [sys.executable, "-B", HERE, "member", library, daemon.socket, str(rank), str(nonce)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, user=uid, group=uid,
            extra_groups=[] if uid else None)

    def state(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        phase, text = self.process.stdout.readline().rstrip("\n").split(" ", 1)
        return int(phase), text

    def close(self):
        if self.process.poll() is None:
            self.process.communicate(timeout=20)


def silent(socket_path, version, way):
    """Members who never read: what they are sent stays on its way. `way`: they keep their
    connections, in a group on host memory or on GPUs, or make the daemon close them and come
    again."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)

    def head(kind, size):
        return struct.pack("=IHHII", 0x50455500, version, kind, size, 0)

    def join(name, rank, ranks):
        config = struct.pack("=64s16s7I2H2I16QQ", name, b"", ranks, ranks, 1, 1, 1, 1, 0, 0,
                             way == "GPUs", 0, 0, *[0] * 16, 10**10)
        device = struct.pack("=64s16s16s4I2Q", b"GPU", bytes([1 + rank] * 16), b"", 0, 0, 90, 0, 0, 0)
        return head(4, 424) + config + struct.pack("=IiQQ", rank, -1, 0, 0) + device

    kept = []

    def member(name, rank, ranks):
        s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        s.connect(socket_path)
        kept.append(s)
        try:
            s.send(head(1, 80) + bytes(64))
            s.recv(4096)  # Welcome, or nothing more would be sent
            s.send(join(name, rank, ranks))
        except (BrokenPipeError, ConnectionResetError):  # turned away
            pass
        return s

    if way != "again":
        for rank in range(40):
            member(b"silent", rank, 40)
    else:
        for n in range(400):
            try:
                s = member(b"again%d" % n, 0, 1)
                s.send(b"garbage")
            except (BrokenPipeError, ConnectionResetError, BlockingIOError):
                pass
    print("done", flush=True)
    sys.stdin.read()


class IsolationTest(unittest.TestCase):
    def start(self, *flags, **popen):
        daemon = Daemon(BIN, "--socket_mode", "0666", *flags, **popen)
        os.chmod(daemon.directory, 0o755)
        self.addCleanup(daemon.close)
        return daemon

    def member(self, *args, **named):
        made = Member(*args, **named)
        self.addCleanup(made.close)
        return made

    def until_open(self, *members):
        for m in members:
            wait_until(lambda: m.state()[0] == OPEN, 20, "the group is open")

    def test_jobs_of_one_user_with_equal_names_are_apart(self):
        daemon = self.start()
        first, other = self.member(daemon, 0, nonce=1), self.member(daemon, 1, nonce=2)
        wait_until(lambda: len(daemon.status()["groups"]) == 2, 20, "two groups")
        self.assertNotEqual(first.state()[0], OPEN)
        self.until_open(self.member(daemon, 1, nonce=1), first)
        self.assertNotEqual(other.state()[0], OPEN)

    def test_the_groups_of_one_user_are_limited_and_a_refused_job_is_told_how(self):
        daemon = self.start("--uid_groups", "1")
        self.until_open(self.member(daemon, 0), self.member(daemon, 1))
        second = self.member(daemon, 0, nonce=2)
        wait_until(lambda: "--uid_groups is 1" in second.state()[1], 20, "the refusal")

    def test_the_memory_of_one_user_is_limited(self):
        daemon = self.start("--uid_memory_mib", "3")  # a group has 2 slots of 1 MiB
        self.until_open(self.member(daemon, 0), self.member(daemon, 1))
        second = self.member(daemon, 0, nonce=2)
        wait_until(lambda: "--uid_memory_mib" in second.state()[1], 20, "the refusal")

    @unittest.skipUnless(os.geteuid() == 0, "only root can be several users")
    def test_equal_groups_of_two_users_are_two_groups_that_see_nothing_of_each_other(self):
        daemon = self.start()
        alice, bob = self.member(daemon, 0, uid=ALICE), self.member(daemon, 1, uid=BOB)
        wait_until(lambda: len(daemon.status()["groups"]) == 2, 20, "two groups")
        self.assertNotEqual(alice.state()[0], OPEN)
        self.until_open(self.member(daemon, 1, uid=ALICE), alice)
        self.assertNotEqual(bob.state()[0], OPEN)
        seen = subprocess.run(
            [os.path.join(BIN, "ultraepctl"), "status", "--json", "--socket", daemon.socket],
            user=BOB, group=BOB, extra_groups=[], capture_output=True, text=True, timeout=20)
        self.assertEqual(seen.returncode, 0, seen.stderr)
        self.assertIn(f'"uid":{BOB}', seen.stdout)
        self.assertNotIn(f'"uid":{ALICE}', seen.stdout)

    @unittest.skipUnless(os.geteuid() == 0, "only root can be several users")
    def test_one_users_crowd_leaves_room_for_others(self):
        daemon = self.start("--uid_connections", "2")
        crowd = [self.member(daemon, 0, nonce=n, uid=ALICE) for n in range(4)]
        wait_until(lambda: sum("--uid_connections is 2" in m.state()[1] for m in crowd) >= 2, 20,
                   "the crowd is turned away")
        self.until_open(self.member(daemon, 0, uid=BOB), self.member(daemon, 1, uid=BOB))

    # The kernel counts descriptors on their way against the sender's user: the daemon's.
    @unittest.skipUnless(os.geteuid() == 0, "only root can be several users")
    def test_who_never_reads_what_it_is_sent_stops_nobody_else(self):
        for way in ("keep", "GPUs", "again"):
            with self.subTest(way):
                daemon = self.start("--uid_groups", "1000", user=DAEMON, group=DAEMON,
                                    extra_groups=[], preexec_fn=lambda: resource.setrlimit(
                                        resource.RLIMIT_NOFILE, (512, 512)))
                version = subprocess.run([os.path.join(BIN, "ultraepd"), "--version"], text=True,
                                         capture_output=True, check=True).stdout.split()[-1]
                stranger = subprocess.Popen(
                    [sys.executable, "-B", HERE, "silent", daemon.socket, version, way],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, user=ALICE,
                    group=ALICE, extra_groups=[])
                self.addCleanup(stranger.communicate, timeout=20)
                self.assertEqual(stranger.stdout.readline(), "done\n")
                last = "group again9: rank 0" if way == "again" else "group silent: rank 39"
                wait_until(lambda: last + " of" in daemon.log_text(), 20, "they have joined")
                self.until_open(self.member(daemon, 0, uid=BOB), self.member(daemon, 1, uid=BOB))
                self.assertNotIn("cannot be passed", daemon.log_text())
                stranger.communicate(timeout=20)
                wait_until(lambda: daemon.status()["daemon"]["connections"] == 3, 20,
                           "what the stranger held is free again")


if __name__ == "__main__":
    if sys.argv[1] == "silent":
        silent(sys.argv[2], int(sys.argv[3]), sys.argv[4])
        sys.exit(0)
    if sys.argv[1] == "member":
        member(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
        sys.exit(0)
    BIN = os.path.abspath(sys.argv.pop(1))
    unittest.main(verbosity=2)
