"""What a checkout consists of: its files, and what its CMakeLists.txt build, link and test."""

import ast
import os
import pathlib
import posixpath
import re
import subprocess

HEADERS = {".h", ".hh", ".hpp", ".cuh", ".inc"}
SOURCES = {".cc", ".cpp", ".cxx", ".c", ".cu"}
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*(["<])([^">]+)[">]', re.M)


class Tree:
    def __init__(self, root):
        self.root = pathlib.Path(root).resolve()
        self.names = sorted(n for n in self._tracked() or self._walked()
                            if (self.root / n).is_file())
        self._texts = {}
        self._imports = {}
        self._cmake = None

    def _tracked(self):
        try:
            listed = subprocess.run(
                ["git", "-c", "safe.directory=*", "-C", self.root, "ls-files", "-z"],
                capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError):
            return []
        return [name for name in listed.split("\0") if name]

    def _walked(self):  # an unpacked archive
        for folder, folders, files in os.walk(self.root):
            top = pathlib.Path(folder) == self.root
            folders[:] = [f for f in folders if f not in (".git", "__pycache__")
                          and not (top and f.startswith("build"))]
            yield from ((pathlib.Path(folder) / f).relative_to(self.root).as_posix() for f in files)

    def text(self, name):
        if name not in self._texts:
            self._texts[name] = (self.root / name).read_bytes().decode(errors="replace")
        return self._texts[name]

    def kind(self, name):
        """header, source, py, sh, cmake, md or other; scripts by their first line."""
        suffix = posixpath.splitext(name)[1]
        if suffix in HEADERS:
            return "header"
        if suffix in SOURCES:
            return "source"
        if suffix in (".md", ".py", ".sh", ".cmake"):
            return suffix[1:]
        if posixpath.basename(name) == "CMakeLists.txt":
            return "cmake"
        first = self.text(name).split("\n", 1)[0]
        if first.startswith("#!"):
            return "py" if "python" in first else "sh" if re.search(r"sh\b", first) else "other"
        return "other"

    def of_kind(self, *kinds):
        return [name for name in self.names if self.kind(name) in kinds]

    def resolve(self, name, include):
        """The file of this tree that an include in `name` means, or None."""
        beside = posixpath.normpath(posixpath.join(posixpath.dirname(name), include))
        return next((n for n in (beside, posixpath.normpath(include)) if n in self.names), None)

    def includes(self, name):
        return [include for _, include in INCLUDE.findall(self.text(name))]

    def reached_by_includes(self, names):
        reached, todo = set(), list(names)
        while todo:
            name = todo.pop()
            if name in self.names and name not in reached:
                reached.add(name)
                todo += filter(None, (self.resolve(name, i) for i in self.includes(name)))
        return reached

    def module(self, name):
        """What Python calls this file: with its packages, as far as they are marked as such."""
        folder, file = posixpath.split(name)
        parts = [] if file == "__init__.py" else [posixpath.splitext(file)[0]]
        while posixpath.join(folder, "__init__.py") in self.names:
            folder, package = posixpath.split(folder)
            parts.insert(0, package)
        return ".".join(parts)

    def imports(self, name):
        """The modules that a Python file names, and the packages these are in."""
        if name not in self._imports:
            self._imports[name] = set()
            for module in self._imported(name):
                parts = module.split(".")
                self._imports[name] |= {".".join(parts[:n + 1]) for n in range(len(parts))}
        return self._imports[name]

    def _imported(self, name):
        here = self.module(name).split(".")
        if posixpath.basename(name) == "__init__.py":
            here.append("")
        try:
            nodes = list(ast.walk(ast.parse(self.text(name))))
        except SyntaxError:  # the check of function sizes says so
            return
        for node in nodes:
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = here[:-node.level] if node.level else []
                parts = base + ([node.module] if node.module else [])
                yield from (".".join([*parts, alias.name]) for alias in node.names)

    @property
    def cmake(self):
        if self._cmake is None:
            self._cmake = CMake(self)
        return self._cmake


class Target:
    def __init__(self, folder, executable):
        self.folder = folder
        self.executable = executable
        self.sources = set()
        self.links = []
        self.test = False


class CMake:
    """Reads literal lists, variables of literals, loops over them, and functions that make targets
    or tests."""

    def __init__(self, tree):
        self.tree = tree
        self.targets = {}
        self.files = set()      # the CMakeLists.txt that belong to the build
        self.test_files = set()  # what tests are made of or run
        self.options = []       # (name, help)
        self._functions = {}    # name -> (makes a target, makes a test)
        self._variables = {}
        if "CMakeLists.txt" in tree.names:
            self._read("", "CMakeLists.txt")

    @staticmethod
    def commands(text):
        """[(name, [arguments])], nested parentheses flattened."""
        found, depth = [], 0
        tokens = re.findall(r'"(?:[^"\\]|\\.)*"|[()]|#[^\n]*|[^\s()"#]+', text)
        for i, token in enumerate(t for t in tokens if not t.startswith("#")):
            if token == "(":
                depth += 1
            elif token == ")":
                depth -= 1
            elif depth == 0:
                found.append((token.lower(), []))
            else:
                found[-1][1].append(token.strip('"'))
        return found

    def _expand(self, arguments):
        for argument in arguments:
            argument = re.sub(r"\$\{(\w+)\}", lambda variable: ";".join(
                self._variables.get(variable[1], [variable[0]])), argument)
            yield from argument.split(";")

    def _path(self, folder, argument):
        argument = argument.replace("${CMAKE_CURRENT_SOURCE_DIR}", folder or ".")
        at_top = re.match(r"\$\{(CMAKE|PROJECT)_SOURCE_DIR\}/(.*)", argument)
        if at_top:
            return at_top[2]
        if argument.startswith((folder or ".") + "/"):
            return posixpath.normpath(argument)
        return posixpath.normpath(posixpath.join(folder, argument))

    def _target(self, name, folder, executable, arguments):
        target = self.targets.setdefault(name, Target(folder, executable))
        for argument in arguments:
            if posixpath.splitext(argument)[1] in SOURCES | HEADERS:
                target.sources.add(self._path(folder, argument))
        return target

    def _read(self, folder, file):
        self.files.add(file)
        self._run(folder, self.commands(self.tree.text(file)))

    def _run(self, folder, commands):
        inside, after_loop = None, 0
        for at, (command, raw) in enumerate(commands):
            if at < after_loop:
                continue
            if command == "foreach" and not inside:
                after_loop = self._loop(folder, commands, at)
                continue
            arguments = list(self._expand(raw))
            if command in ("function", "macro"):
                inside = arguments[0].lower()
                self._functions[inside] = (False, False)
            elif command in ("endfunction", "endmacro"):
                inside = None
            elif inside:
                target, test = self._functions[inside]
                self._functions[inside] = (target or command in ("add_executable", "add_library"),
                                           test or command == "add_test")
            elif command == "add_subdirectory" or command == "include":
                below = self._path(folder, arguments[0])
                path = below if command == "include" else posixpath.join(below, "CMakeLists.txt")
                if path in self.tree.names:
                    self._read(folder if command == "include" else below, path)
            else:
                self._command(folder, command, arguments)

    def _loop(self, folder, commands, at):
        """Runs the foreach at `at` and returns where it ends."""
        depth, end = 1, at
        while depth and end + 1 < len(commands):
            end += 1
            depth += {"foreach": 1, "endforeach": -1}.get(commands[end][0], 0)
        variable, *items = commands[at][1]
        if items[:2] == ["IN", "LISTS"]:
            items = [f"${{{name}}}" for name in items[2:]]
        elif items[:2] == ["IN", "ITEMS"]:
            items = items[2:]
        for item in self._expand(items):
            self._variables[variable] = [item]
            self._run(folder, commands[at + 1:end])
        self._variables.pop(variable, None)
        return end + 1

    def _command(self, folder, command, arguments):
        makes_target, makes_test = self._functions.get(command, (False, False))
        if command == "option" or (command == "set" and "CACHE" in arguments):
            self.options.append((arguments[0], arguments[1] if command == "option" else
                                 arguments[arguments.index("CACHE") + 2]))
        elif command == "set":
            self._variables[arguments[0]] = arguments[1:]
        elif command == "list" and arguments[0] == "APPEND":
            self._variables.setdefault(arguments[1], []).extend(arguments[2:])
        elif command in ("add_executable", "add_library"):
            self._target(arguments[0], folder, command == "add_executable", arguments[1:])
        elif command == "target_sources":
            self._target(arguments[0], folder, False, arguments[1:])
        elif command == "target_link_libraries" and arguments[0] in self.targets:
            self.targets[arguments[0]].links += arguments[1:]
        elif makes_target:
            self._target(arguments[0], folder, True, arguments[1:]).test |= makes_test
        if makes_test or command == "add_test":
            for argument in arguments:
                self.test_files.update(self._path(folder, a) for a in re.split(r"[\s']+", argument))
                if command == "add_test" and argument in self.targets:
                    self.targets[argument].test = True

    def sources(self, name):
        """All sources of a target and of what it links."""
        seen, todo = set(), [name]
        while todo:
            target = todo.pop()
            if target in self.targets and target not in seen:
                seen.add(target)
                todo += self.targets[target].links
        return {source for target in seen for source in self.targets[target].sources}
