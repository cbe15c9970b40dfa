"""Sizes of files and functions, and that their exemptions shrink."""

import ast
import re

import cpp

FUNCTION_LINES = 69  # under 70
README_LINES = 100


def file_cap(name):
    return 600 if name.startswith("kernels/") else 400


def ratchet(sizes, cap, exempt):
    """What is over its cap and not exempt at exactly its size, and exemptions without a need."""
    for name, size in sorted(sizes.items()):
        if name in exempt and size > cap(name) and size != exempt[name]:
            yield f"{name} has {size} lines, its exemption says {exempt[name]}" + (
                ": split it" if size > exempt[name] else ": lower that")
        elif name in exempt and size <= cap(name):
            yield f"{name} is below its cap now: delete its exemption"
        elif name not in exempt and size > cap(name):
            yield f"{name} has {size} lines, at most {cap(name)}: split it"
    for name in sorted(set(exempt) - set(sizes)):
        yield f"{name} does not exist: delete its exemption"


def lines_of(text):
    return text.count("\n") + (not text.endswith("\n") and text != "")


def file_sizes(tree, exempt):
    names = tree.of_kind("header", "source", "py", "sh", "cmake")
    return list(ratchet({n: lines_of(tree.text(n)) for n in names}, file_cap, exempt))


def readme_sizes(tree):
    return [f"{name} has more than {README_LINES} lines" for name in tree.of_kind("md")
            if name != "README.md" and lines_of(tree.text(name)) > README_LINES]


def python_functions(text):
    def walk(node, scope):
        for child in ast.iter_child_nodes(node):
            inner = scope
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                inner = f"{scope}.{child.name}" if scope else child.name
                if not isinstance(child, ast.ClassDef):
                    first = min([child.lineno] + [d.lineno for d in child.decorator_list])
                    yield inner, child.end_lineno - first + 1
            yield from walk(child, inner)
    yield from walk(ast.parse(text), "")


def shell_functions(text):
    """A function ends with the `}` (or `)`) below its first letter, or on its own line."""
    start = name = end = here_end = None
    for number, line in enumerate(text.split("\n"), 1):
        if here_end is not None:
            here_end = None if line.strip() == here_end else here_end
            continue
        here = re.search(r"<<-?\s*(['\"]?)(\w+)\1", line)
        here_end = here[2] if here else None
        begun = re.match(r"(\s*)(?:function\s+([\w-]+)\s*(?:\(\))?|([\w-]+)\s*\(\))\s*([{(]?)",
                         line)
        if name is None and begun:
            start, name = number, begun[2] or begun[3]
            end = begun[1] + (")" if begun[4] == "(" else "}")
            if re.search(r"[;\s)]\s*[)}]\s*(#.*)?$", line[begun.end():]):
                yield name, 1
                name = None
        elif name is not None and re.match(re.escape(end) + r"(\W|$)", line):
            yield name, number - start + 1
            name = None
    if name is not None:
        raise ValueError(f"function {name} has no end")


def function_sizes(tree, exempt):
    sizes, wrong = {}, []
    scanners = {"header": cpp.functions, "source": cpp.functions, "py": python_functions,
                "sh": shell_functions}
    for name in tree.of_kind(*scanners):
        try:
            for function, lines in scanners[tree.kind(name)](tree.text(name)):
                key = f"{name}:{function}"
                sizes[key] = max(lines, sizes.get(key, 0))
        except (ValueError, SyntaxError) as error:
            wrong.append(f"{name}: cannot find its functions: {error}")
    return wrong + list(ratchet(sizes, lambda _: FUNCTION_LINES, exempt))
