"""Every option is explained where its reader looks, and what is named exists."""

import ast
import posixpath
import re
from typing import NamedTuple

import cpp

# program -> the document with the table of its flags: | `--name` | default | what for |
TABLES = {"ultraepd": "daemon/README.md"}
# Programs of others whose flags our scripts and documents use.
FOREIGN = ["chromium", "cmake", "ctest", "apt-get", "git", "dpkg-query", "mktemp", "ncu", "nvidia-smi",
           "compute-sanitizer", "pip", "prometheus", "promtool", "python", "valgrind"]
UNIT = re.compile(r"\d\.\.|\bat (least|most) [\w-]|\b(nano|micro|milli)?seconds\b|\b[KMG]iB\b"
                  r"|\b(bytes|percent|fraction|tokens)\b")
NUMBER = re.compile(r"u?int\d*(_t)?|unsigned|long|double|float|absl::Duration")
SYNTHETIC = "tests/tidy/"  # has programs and flags that do not exist
FLAG = re.compile(r"(?<![\w-])--([a-z][\w-]*)")
STRING = r'"((?:[^"\\\n]|\\.)*)"'


class Flag(NamedTuple):
    type: str
    default: str
    help: str
    file: str


def _split(code, begin, end):
    """The places between commas outside of brackets."""
    depth, start = 0, begin
    for at in range(begin, end):
        depth += (code[at] in "([{") - (code[at] in ")]}")
        if code[at] == "," and depth == 0:
            yield start, at
            start = at + 1
    yield start, end


def absl_flags(tree, file):
    text = tree.text(file)
    code, kept = cpp.strip(text), cpp.strip(text, strings=True)
    flags = {}
    for found in re.finditer(r"^[ \t]*ABSL_FLAG\s*\(", code, re.M):
        depth = end = 0
        for end in range(found.end() - 1, len(code)):
            depth += (code[end] == "(") - (code[end] == ")")
            if depth == 0:
                break
        parts = [kept[a:b].strip() for a, b in _split(code, found.end(), end)]
        text_of_help = "".join(re.findall(STRING, ",".join(parts[3:])))
        flags[parts[1]] = Flag(parts[0], parts[2], text_of_help, file)
    return flags


class Program:
    """A binary or a script: the flags it takes, and all text its user may see."""

    def __init__(self, name):
        self.name = name
        self.absl = {}       # name -> Flag
        self.others = {}     # name -> file
        self.forwards = []   # programs that get the arguments it does not know
        self.usage = ""      # what --help prints, as far as it is written by hand
        self.prints_help = False  # --help prints the definitions
        self.flagfile = False
        self.dashes = False  # --a-b is the same as --a_b

    def own(self):
        return {*self.absl, *self.others}

    def spelled(self, flag):
        return flag.replace("-", "_") if self.dashes else flag

    def takes(self, flag, programs):
        flag = self.spelled(flag)
        names = self.own() | {"help"} | ({"flagfile"} if self.flagfile else set())
        return flag in names or flag.removeprefix("no") in [
            n for n, f in self.absl.items() if f.type == "bool"] or any(
                programs[p].takes(flag, programs) for p in self.forwards if p in programs)


def _binary(tree, name):
    program = Program(name)
    for file in sorted(tree.reached_by_includes(tree.cmake.sources(name))):
        kept = cpp.strip(tree.text(file), strings=True)
        program.absl.update(absl_flags(tree, file))
        program.flagfile |= "ParseCommandLine(" in cpp.strip(tree.text(file))
        program.dashes |= "'-', '_'" in kept
        program.prints_help |= bool(re.search(r"GetAllFlags\(", kept)
                                    and re.search(r"(->|\.)Help\(\)", kept))
        for literal in re.findall(r'"(?:[^"\\\n]|\\.)*"(?:\s*"(?:[^"\\\n]|\\.)*")*', kept):
            text = "".join(re.findall(STRING, literal))
            alone = FLAG.fullmatch(text)
            if alone:
                program.others[alone[1]] = file
            elif "usage:" in kept and (r"\n" in text or "usage:" in text):
                program.usage += text + "\n"
        if re.search(r'==\s*"(--)?version"', kept):
            program.others["version"] = file
        # Tables of flags with their help, {"--name", ..., "help"}, are printed in a loop.
        for entry in re.findall(r'\{\s*"(--[\w-]+)",[^{}"]*' + STRING, kept):
            program.usage += " ".join(entry) + "\n" if entry[1].strip() else ""
    return program


def _script(tree, file):
    program = Program(file)
    text = tree.text(file)
    for line in text.split("\n"):
        label = re.match(r"\s*((?:-[\w-]+\s*\|\s*)*-[\w-]+)\s*\)", line)
        compared = re.findall(r"=\s*['\"]?(--[a-z][\w-]*)['\"]?\s*\]", line)
        for flag in FLAG.findall(" ".join([label[1] if label else "", *compared])):
            program.others[flag] = file
        forwarded = re.search(r'/([\w.-]+)"[^\n]*"\$@"', line)
        if forwarded:
            program.forwards.append(forwarded[1])
    head = re.match(r"(?:#.*\n)+", text)
    heres = re.findall(r"<<-?\s*['\"]?(\w+)['\"]?[^\n]*\n(.*?)\n\s*\1\n", text, re.S)
    program.usage = "\n".join([head[0] if head else "", *(here for _, here in heres)])
    return program


def _argparse(tree, file):
    program = Program(file)
    for call in ast.walk(ast.parse(tree.text(file))):
        if isinstance(call, ast.Call) and getattr(call.func, "attr", "") == "add_argument":
            for name in call.args:
                if isinstance(name, ast.Constant) and FLAG.fullmatch(str(name.value)):
                    program.others[name.value[2:]] = file
                    if any(word.arg == "help" for word in call.keywords):
                        program.usage += f"{name.value}\n"
    return program


def programs_of(tree):
    """name -> Program: binaries that are no tests, shell scripts, Python's with argparse."""
    found = [_binary(tree, n) for n, t in tree.cmake.targets.items() if t.executable and not t.test]
    found += [_script(tree, n) for n in tree.of_kind("sh")]
    found += [_argparse(tree, n) for n in tree.of_kind("py")
              if "argparse" in tree.imports(n) and not n.startswith(SYNTHETIC)]
    return {p.name: p for p in found}


def definitions(tree, any_value, undocumented):
    """Each flag is read, explains itself, and is in its program's --help."""
    wrong, valued, unlisted = [], set(), set()
    code = "\n".join(cpp.strip(tree.text(n)) for n in tree.of_kind("header", "source")
                     if not n.startswith("tests/") or n.startswith("tests/bench/"))
    for program in programs_of(tree).values():
        for name, flag in program.absl.items():
            where = f"{program.name} --{name}"
            if not re.search(rf"GetFlag\(\s*FLAGS_{name}\s*\)", code):
                wrong.append(f"{where} is never read")
            if len(flag.help.split()) < 2:
                wrong.append(f"{where} has no help text")
            if not flag.default:
                wrong.append(f"{where} has no default")
            if NUMBER.fullmatch(flag.type.removeprefix("std::")) and not UNIT.search(flag.help):
                valued.add(name)
                if name not in any_value:
                    wrong.append(f"{where} states neither unit nor range")
        for name in sorted(program.own() - {"help"}):
            if program.prints_help and name in program.absl:
                continue
            if name not in {program.spelled(f) for f in re.findall(r"--([a-z][\w-]*)", program.usage)}:
                unlisted.add(f"{program.name} --{name}")
    wrong += [f"{w} is not in its help" for w in sorted(unlisted - set(undocumented))]
    wrong += [f"{w} needs no exemption" for w in sorted((set(any_value) - valued)
                                                        | (set(undocumented) - unlisted))]
    wrong += [f"CMake option {n} has no help" for n, about in tree.cmake.options
              if len(about.split()) < 2]
    return wrong


def tables(tree, wanted=None):
    """The tables of flags in the documents agree with the definitions."""
    wrong = []
    programs = programs_of(tree)
    for name, document in (wanted or TABLES).items():
        if name not in programs or document not in tree.names:
            wrong.append(f"{name} or {document} does not exist")
            continue
        rows = dict(re.findall(r"^\| *`--([\w-]+)` *\| *`?([^|`]*?)`? *\| *[^|\s][^|]*\|",
                               tree.text(document), re.M))
        for flag, about in programs[name].absl.items():
            default = about.default.strip('"') or "empty"
            if flag not in rows:
                wrong.append(f"{document}: no row | `--{flag}` | {default} | what for |")
            elif rows[flag] != default:
                wrong.append(f"{document}: --{flag} has the default {default}, not {rows[flag]}")
        wrong += [f"{document}: {name} has no flag --{flag}" for flag in rows
                  if flag not in programs[name].own()]
    return wrong


def _spans(tree, name):
    """(where, text) pieces in which a program's name owns the flags that follow it."""
    text = tree.text(name)
    if tree.kind(name) in ("header", "source"):
        text = cpp.talk(text)
    text = re.sub(r"\\\n", "  ", text)
    for number, line in enumerate(text.split("\n"), 1):
        parts = [line]
        if tree.kind(name) == "md" and "`" in line:
            parts = line.split("`")
        for part in parts:
            yield f"{name}:{number}", part


def uses(tree, wrong_flags):
    """Every --flag in a document, script, message or comment is one of the program beside it."""
    programs = programs_of(tree)
    called = {n: n for n in FOREIGN}
    foreign = {*FOREIGN, *(n for n, p in programs.items() if set(p.forwards) & set(FOREIGN))}
    for name in programs:
        called[name] = name
        called[posixpath.basename(name)] = name
    # A short word like `run` is a program only where a command stands.
    owner = re.compile("|".join(rf"(?:^|/|\$ |\"|&& )({re.escape(n)})(?=\"?[\s,\])])|"
                                rf"(?<![\w/-])({re.escape(n)})(?=\"?\s)" if len(n) > 4 else
                                rf"/({re.escape(n)})(?=\"?\s)"
                                for n in sorted(called, key=len, reverse=True)))
    wrong, used = [], set()
    for name in tree.of_kind("md", "sh", "py", "header", "source"):
        if name.startswith(SYNTHETIC):
            continue
        for where, part in _spans(tree, name):
            for flag in FLAG.finditer(part):
                before = [m for m in owner.finditer(part, 0, flag.start())]
                of = called[next(filter(None, before[-1].groups()))] if before else None
                known = [programs[of]] if of in programs else programs.values()
                if of in foreign or any(p.takes(flag[1], programs) for p in known):
                    continue
                used.add(flag[1])
                if flag[1] not in wrong_flags or not name.startswith("tests/"):
                    wrong.append(f"{where}: {of or 'every program'} refuses --{flag[1]}")
    return wrong + [f"--{f} is used nowhere: delete its exemption" for f in set(wrong_flags) - used]


def environment(tree):
    """Every variable of ours that code reads is in a document."""
    documents = "\n".join(tree.text(n) for n in tree.of_kind("md"))
    wrong = []
    for name in tree.of_kind("header", "source", "py", "sh", "cmake"):
        if name.startswith(SYNTHETIC):
            continue
        text = cpp.strip(tree.text(name), strings=True) if tree.kind(name) in (
            "header", "source") else tree.text(name)
        read = re.findall(r"(?:getenv\(|environ\.get\(|environ\[|ENV\{)\s*[\"']?(ULTRAEP_\w+)",
                          text)
        if tree.kind(name) == "sh":
            read += re.findall(r"\$\{?(ULTRAEP_\w+)", text)
        wrong += [f"{name} reads {v}, which no document names" for v in sorted(set(read))
                  if not re.search(rf"\b{v}\b", documents)]
    return wrong
