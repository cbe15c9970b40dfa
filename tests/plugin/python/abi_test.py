"""The ctypes mirror of ultraep.h has the compiler's sizes, offsets and values."""

import ctypes
import os
import re
import subprocess
import tempfile
import unittest

from ultraep import Phase, Verdict, _abi

ROOT = os.path.join(os.path.dirname(__file__), "..", "..", "..")
HEADER = os.path.join(ROOT, "plugin", "api", "ultraep.h")
STRUCTS = {
    "ultraep_attach_options": _abi.AttachOptions,
    "ultraep_group_config": _abi.GroupConfig,
    "ultraep_memory": _abi.Memory,
    "ultraep_client_info": _abi.ClientInfo,
    "ultraep_replica": _abi.Replica,
    "ultraep_plan_info": _abi.PlanInfo,
    "ultraep_stream_stats": _abi.StreamStats,
    "ultraep_reduce_stats": _abi.ReduceStats,
}
CONSTANTS = {
    "ULTRAEP_MAX_SHARDS": _abi.MAX_SHARDS,
    "ULTRAEP_FLOAT32": _abi.FLOAT32,
    "ULTRAEP_BFLOAT16": _abi.BFLOAT16,
    "ULTRAEP_OK": 0,
    "ULTRAEP_TIMEOUT": _abi.TIMEOUT,
    "ULTRAEP_INTERNAL": max(_abi._ERRORS),
    **{f"ULTRAEP_{v.name}": v for v in Verdict},
    **{f"ULTRAEP_{p.name}": p for p in Phase if p.name != "REFUSED"},
    "ULTRAEP_REFUSED_JOIN": Phase.REFUSED,
}


def expressions():
    """C expression -> the value that Python believes in."""
    found = dict(CONSTANTS)
    for name, struct in STRUCTS.items():
        found[f"sizeof({name})"] = ctypes.sizeof(struct)
        for field in struct._fields_:
            found[f"offsetof({name}, {field[0]})"] = getattr(struct, field[0]).offset
    return found


class AbiTest(unittest.TestCase):

    def test_structs_and_constants(self):
        expected = expressions()
        checks = "\n".join(f'printf("%lld\\n", (long long)({e}));' for e in expected)
        with tempfile.TemporaryDirectory() as directory:
            source, program = (os.path.join(directory, n) for n in ("abi.c", "abi"))
            with open(source, "w") as file:
                file.write("#include <stddef.h>\n#include <stdio.h>\n"
                           f'#include "{os.path.realpath(HEADER)}"\nint main(void) {{{checks}}}\n')
            subprocess.run(["gcc", source, "-o", program], check=True)
            values = subprocess.run([program], check=True, capture_output=True, text=True).stdout
        for (expression, value), found in zip(expected.items(), values.split()):
            self.assertEqual(int(found), value, expression)

    def test_every_struct_and_function_of_the_header_is_bound(self):
        with open(HEADER) as file:
            header = file.read()
        structs = set(re.findall(r"typedef struct (\w+) \{", header))
        self.assertEqual(structs, set(STRUCTS))
        functions = set(re.findall(r"ULTRAEP_API [\w\s*]*?\bultraep_(\w+)\(", header))
        free = {"plan_retain", "plan_free", "detach", "last_error", "version", "status_name"}
        self.assertEqual(functions - free, set(_abi._PROTOTYPES))
        for name, arguments in _abi._PROTOTYPES.items():
            declared = re.search(rf"\bultraep_{name}\(([^)]*)\)", header).group(1)
            self.assertEqual(len(arguments), declared.count(",") + 1, name)


if __name__ == "__main__":
    unittest.main(verbosity=2)
