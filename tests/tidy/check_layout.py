"""Who may use whom, what nobody uses, and what must not stand in any file."""

import posixpath
import re
import sys

# folder -> what it may include and link, besides the system; the longest match counts
MAY_USE = {
    "protocol": ["protocol/"],
    "kernels": ["protocol/", "kernels/"],
    "daemon/planner": ["protocol/", "daemon/planner/"],
    "daemon": ["protocol/", "daemon/"],
    "plugin": ["protocol/", "kernels/", "plugin/"],
    "tests/model": ["tests/model/"],
    "tests": ["protocol/", "kernels/", "daemon/", "plugin/", "tests/"],
}
THIRD_PARTY = {  # header prefix -> folders that may use it
    "cuda.h": ["kernels/cuda/", "tests/support/"],
    "cudaTypedefs.h": ["kernels/cuda/"],
    "nccl.h": ["kernels/cuda/"],
    "absl/": ["daemon/", "plugin/examples/", "tests/bench/"],
    "civetweb.h": ["daemon/metrics/http_server.cc"],
    "prometheus/": ["daemon/metrics/", "tests/daemon/metrics/"],
    "nlohmann/": ["daemon/cli/", "daemon/event_json.", "daemon/metrics/", "daemon/report/",
                  "daemon/status_json.", "daemon/trace/", "plugin/examples/", "tests/bench/"],
    "gtest/": ["tests/"],
    "gmock/": ["tests/"],
}
# folder of Python -> what it may import besides Python's own modules and, of ours, whatever may not
# import more; the longest match counts
MAY_IMPORT = {
    "plugin/python/ultraep": [],
    "plugin/python/ultraep/__init__.py": ["torch"],  # at the first use of what needs it
    "plugin/python/ultraep/megatron.py": ["megatron", "torch"],
    "plugin/python/ultraep/torch": ["torch"],
}
PUBLIC_HEADER = "plugin/api/ultraep.h"
# Tools look for these by name.
FOUND_BY_NAME = {".ci/run", ".clang-format", ".gitignore", "CMakePresets.json", "LICENSE",
                 "README.md"}
FOUND_ANYWHERE = {"pyproject.toml", "py.typed"}
# Put together here, so that this file holds none of them.
LEAKS = ["/wo" + "rk/", r"\bTO" + "DO", r"\bFIX" + "ME", r"\bX" + r"XX\b"] + [
    rf"\b{name}\." + top for name, top in (
        (r"(deb|security|snapshot)\.debian", "org"), (r"(archive|security)\.ubuntu", "com"),
        ("pypi", "org"), ("pythonhosted", "org"), (r"registry\.npmjs", "org"), ("crates", "io"),
        (r"proxy\.golang", "org"), (r"conda\.anaconda", "org"), (r"docker", "io"), ("ghcr", "io"),
        (r"repo\.maven\.apache", "org"), ("rubygems", "org"))]


def allowed_for(name, rules=None):
    rules = rules or MAY_USE
    return next((rules[f] for f in sorted(rules, key=len, reverse=True)
                 if name == f or name.startswith(f + "/")), None)


def include_arrows(tree):
    wrong = []
    for name in tree.of_kind("header", "source"):
        allowed = allowed_for(name)
        if allowed is None:
            wrong.append(f"{name}: no rule says what its folder may include")
            continue
        text = tree.text(name)
        for mark, include in re.findall(r'#[ \t]*include[ \t]*(["<])([^">]+)', text):
            third = next((t for t in THIRD_PARTY if include.startswith(t)), None)
            found = tree.resolve(name, include)
            if third:
                fine = name.startswith(tuple(THIRD_PARTY[third]))
            elif found:
                fine = found.startswith(tuple(allowed))
            else:
                fine = mark == "<"
            if not fine:
                wrong.append(f"{name} may not include {include}")
        if re.search(r"#[ \t]*include[ \t]+[^\s\"<]", text):
            wrong.append(f"{name} includes what a macro says")
    if PUBLIC_HEADER in tree.names and tree.includes(PUBLIC_HEADER) != ["stdint.h"]:
        wrong.append(f"{PUBLIC_HEADER} may include <stdint.h> only")
    return wrong


def import_arrows(tree):
    wrong = []
    limits = {name: allowed_for(name, MAY_IMPORT) for name in tree.of_kind("py")}
    modules = {tree.module(name): limit for name, limit in limits.items() if limit is not None}
    for name, limit in limits.items():
        for module in sorted(tree.imports(name)) if limit is not None else ():
            top = module.split(".")[0]
            if tree.module(name).startswith(module + "."):
                fine = True  # Python imports the packages around a module by itself
            elif module in modules:
                fine = set(modules[module]) <= set(limit)
            else:  # the name of a module's member, or somebody else's
                fine = top in modules or top in limit or top in sys.stdlib_module_names
            if not fine:
                wrong.append(f"{name} may not import {module}")
    return wrong


def link_arrows(tree):
    wrong = []
    targets = tree.cmake.targets
    for name, target in targets.items():
        folder = target.folder or name  # a header-only library, named after its folder
        allowed = allowed_for(folder + "/") or []
        for link in target.links:
            if link not in targets:
                continue
            if not f"{targets[link].folder or link}/".startswith(tuple(allowed)):
                wrong.append(f"{name} ({folder}/) may not link {link}")
        for source in target.sources:
            if posixpath.relpath(source, target.folder or ".").startswith(".."):
                wrong.append(f"{name} ({folder}/) may not compile {source}")
    return wrong


def dead_code(tree):
    wrong = []
    cmake = tree.cmake
    built = {source for target in cmake.targets.values() for source in target.sources}
    for name in tree.of_kind("source"):
        if name not in built:
            wrong.append(f"{name} is in no target")
    for name in tree.of_kind("cmake"):
        if name not in cmake.files:
            wrong.append(f"{name} is not part of the build")
    reached = tree.reached_by_includes(built)
    product = tree.reached_by_includes(s for s in built if not s.startswith("tests/"))
    for name in tree.of_kind("header"):
        if name not in reached:
            wrong.append(f"{name} is included by no source")
        elif not name.startswith("tests/") and name not in product and name != PUBLIC_HEADER:
            wrong.append(f"{name} is included by tests only")
    return wrong


def _is_discovered(tree, name):
    """A run_tests.py that a script runs finds the tests beside it."""
    runner = posixpath.join(posixpath.dirname(name), "run_tests.py")
    return name.endswith("_test.py") and runner in tree.names and any(
        mentions(tree.text(n), runner) for n in tree.of_kind("sh"))


def unregistered_tests(tree):
    cmake = tree.cmake
    tested = {s for t in cmake.targets.values() if t.test for s in t.sources}
    ran = "\n".join(tree.text(n) for n in tree.of_kind("sh"))
    wrong = []
    for name in tree.of_kind("source", "py"):
        text = tree.text(name)
        if tree.kind(name) == "source":
            looks = re.search(r"^(TEST|TEST_F|TEST_P|TYPED_TEST)\(", text, re.M)
            fine = name in tested
        else:
            looks = re.search(r"^\s*unittest\.main\(", text, re.M)
            fine = (name in cmake.test_files or mentions(ran, name)
                    or _is_discovered(tree, name))
        if (looks or re.search(r"_test\.\w+$", name)) and not fine:
            wrong.append(f"{name} is a test that nothing runs")
    return wrong


def named_tests(tree):
    """What a document promises it does so with a test: in tables with a column `test`, every row
    names registered ones."""
    registered = set(re.findall(r"\b[a-z]\w*\b", tree.text("tests/CMakeLists.txt")))
    wrong = []
    for name in tree.of_kind("md"):
        inside = False
        for line in tree.text(name).splitlines():
            cells = [c.strip() for c in line.strip().strip("|").split("|")]
            if not line.startswith("|"):
                inside = False
            elif cells[-1] == "test":
                inside = True
            elif inside and not re.fullmatch("[- ]+", cells[-1]):
                tests = re.findall(r"\b[a-z]\w*\b", cells[-1])
                if not tests:
                    wrong.append(f"{name}: '{cells[0]}' names no test")
                wrong += [f"{name}: '{cells[0]}' names {t}, which nothing runs"
                          for t in tests if t not in registered]
    return wrong


def mentions(text, path):
    return re.search(rf"(?<![\w-]){re.escape(path)}(?![\w/-]|\.\w)", text)


def _is_used(tree, name):
    suffix = posixpath.splitext(name)[1]
    for other in tree.names:
        if other == name or posixpath.basename(other) == "exemptions.py" and suffix != ".py":
            continue
        text = tree.text(other)
        if mentions(text, name):
            return True
        if (suffix == ".py" and tree.kind(other) == "py"
                and tree.module(name) in tree.imports(other)):
            return True
        folder = posixpath.dirname(other)
        if folder and name.startswith(folder + "/"):
            below = name[len(folder) + 1:]
            if re.search(r"[./]", below) and mentions(text, below):
                return True
            if tree.kind(other) == "md" and re.search(
                    rf"`{re.escape(below)}`|^\| *{re.escape(below)} *\|", text, re.M):
                return True
    return False


def dead_files(tree):
    return [f"{name} is named by no other file" for name in tree.of_kind("py", "sh", "other")
            if name not in FOUND_BY_NAME and posixpath.basename(name) not in FOUND_ANYWHERE
            and not _is_used(tree, name) and not _is_discovered(tree, name)]


def _links(tree, name):
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", tree.text(name)):
        yield target, posixpath.normpath(posixpath.join(posixpath.dirname(name), target))


def documentation(tree):
    """Links lead somewhere, every document is reached, every folder of code is described."""
    wrong = []
    for name in tree.of_kind("md"):
        for target, path in _links(tree, name):
            if not (tree.root / path).exists():
                wrong.append(f"{name} links to {target}, which does not exist")
    reached, todo = set(), ["README.md"]
    while todo:
        name = todo.pop()
        if name in tree.names and name not in reached:
            reached.add(name)
            todo += [path for _, path in _links(tree, name) if path.endswith(".md")]
    for name in tree.of_kind("md"):
        if name not in reached:
            wrong.append(f"{name} is reached by no link from README.md")
    folders = {posixpath.dirname(n) for n in tree.of_kind("header", "source", "py", "sh", "cmake")
               if not n.startswith(".")}
    for folder in sorted(folders - {""}):
        above = folder
        while above and posixpath.join(above, "README.md") not in tree.names:
            above = posixpath.dirname(above)
        if not above:
            wrong.append(f"{folder}/ has no README.md and neither has a folder above it")
        elif above != folder:
            child = folder[len(above) + 1:].split("/")[0]
            if not re.search(rf"(?<![\w/-]){re.escape(child)}/",
                             tree.text(posixpath.join(above, "README.md"))):
                wrong.append(f"{above}/README.md does not mention {child}/")
    return wrong


def leaks(tree):
    return [f"{name}:{number} holds {found[0]}"
            for name in tree.names
            for number, line in enumerate(tree.text(name).split("\n"), 1)
            if (found := re.search("|".join(LEAKS), line))]
