"""Enough of C++ (and C, CUDA) to find functions, classes and their members by their braces."""

import re
from typing import NamedTuple

TOKEN = re.compile(
    r'//(?:[^\n\\]|\\.)*|/\*.*?\*/'
    r'|(?:u8|[uUL])?R"([^()\\\s]{0,16})\(.*?\)\1"'
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|(?<![0-9a-fA-F])'(?:[^'\\\n]|\\.)+'", re.S)
DIRECTIVE = re.compile(r"^[ \t]*#(?:[^\n\\]|\\.)*", re.M | re.S)
LAMBDA = re.compile(r"(?:^|[=(,{&|?:]|return)\s*\[[^\[\]]*\]\s*(?:<[^{}]*?>\s*)?(?:\(.*\))?[^=]*$",
                    re.S)
LABELS = re.compile(r"(?:\s|\b(?:public|private|protected)\s*:)*")


class Block(NamedTuple):
    kind: str   # namespace, class, function, macro, enum or init
    name: str   # Outer::Name
    begin: int  # offset of its first token
    open: int   # offset of its opening brace
    close: int  # offset of its closing brace


def _blank(text):
    return re.sub(r"[^\n]", " ", text)


def strip(text, strings=False):
    """The text without comments and, unless `strings`, without what quotes enclose. Every character
    keeps its place."""
    def replace(match):
        token = match[0]
        if token.startswith("/"):
            return _blank(token)
        return token if strings else token[0] + _blank(token[1:-1]) + token[-1]
    return TOKEN.sub(replace, text)


def talk(text):
    """Only comments and quotes, each character in its place."""
    out, at = [], 0
    for match in TOKEN.finditer(text):
        out += [_blank(text[at:match.start()]), match[0]]
        at = match.end()
    return "".join(out) + _blank(text[at:])


def _pairs(code):
    pairs = {}
    for opening, closing in ("{}", "()"):
        stack = []
        for found in re.finditer(re.escape(opening) + "|" + re.escape(closing), code):
            if found[0] == opening:
                stack.append(found.start())
            elif not stack:
                raise ValueError(f"'{closing}' closes nothing, line {line_of(code, found.start())}")
            else:
                pairs[stack.pop()] = found.start()
        if stack:
            raise ValueError(f"'{opening}' is never closed, line {line_of(code, stack[-1])}")
    return pairs


def line_of(text, offset):
    return text.count("\n", 0, offset) + 1


def _without_template(head):
    while head.startswith("template"):
        depth = 0
        for at, c in enumerate(head):
            depth += (c == "<") - (c == ">" and head[at - 1] != "-")
            if c == ">" and depth == 0:
                head = head[at + 1:].lstrip()
                break
        else:
            return head
    return head


def _flat(head):
    """Brackets lose what they hold."""
    before = None
    while before != head:
        before = head
        head = re.sub(r"\((?!\))[^(){}]*\)", "()", head)
        head = re.sub(r"\{(?!\})[^(){}]*\}", "{}", head.replace("()", "\1"))
        head = head.replace("\1", "()")
        head = re.sub(r"\((?:\(\)|\{\}|[^(){}])+\)", "()", head)
    return head


def _classify(head, around):
    """(kind, name) of the block whose text before its brace is `head`; kind `member` is the value
    of a member in a constructor's list."""
    head = re.sub(r"\[\[.*?\]\]", " ", head, flags=re.S)
    head = re.sub(r"\b(?:alignas|__declspec)\s*\([^()]*\)|\b__attribute__\s*\(\(.*?\)\)", " ", head,
                  flags=re.S)
    head = _without_template(head.strip())
    flat = _flat(head)
    if LAMBDA.search(flat):
        return "function", (re.findall(r"(\w+)\s*=", flat) or ["lambda"])[0]
    if around == "init":
        return "init", ""
    if re.match(r'(?:inline\s+)?namespace\b|extern\s*"\s*"\s*$', flat):
        return "namespace", ""
    if "(" not in flat and re.match(r"(?:typedef\s+)?enum\b", flat):
        return "enum", ""
    if "(" not in flat and "=" not in flat and re.search(r"\b(?:class|struct|union)\b", flat):
        named = re.split(r"\b(?:class|struct|union)\b", flat, maxsplit=1)[1]
        named = re.sub(r"\bfinal\b", "", re.split(r"(?<!:):(?!:)", named)[0])
        return "class", (re.findall(r"\w+", re.sub(r"<.*", "", named, flags=re.S)) or [""])[-1]
    if "=" in re.sub(r"operator\s*[^\w\s(]+|[=!<>]=", "", flat) or "(" not in flat:
        return "init", ""
    if re.search(r"\)[^:]*(?<!:):(?!:)", flat) and re.search(r"[\w>]$", flat):
        return "member", ""
    name = re.search(r"(operator[^(]*|[~\w:]+)\s*$", flat[:flat.index("(")])
    name = name[1].strip() if name else ""
    if re.match(r"[A-Z][A-Z_]+\(.+\)$", head, re.S):  # TEST(Suite, Name)
        name = re.sub(r"\s+", " ", head)
    return "function", name


def _scan(code, pairs, begin, end, around, scope):
    head = at = begin
    while at < end:
        c = code[at]
        if c == ";" or c == "}" or (c == "," and around == "init"):
            head = at + 1
        elif c == "(":
            yield from _scan(code, pairs, at + 1, pairs[at], "init", scope)
            at = pairs[at]
        elif c == "{":
            start = head + LABELS.match(code[head:at]).end()
            kind, name = _classify(code[start:at], around)
            name = "::".join(filter(None, (scope, name)))
            if kind == "member":
                yield from _scan(code, pairs, at + 1, pairs[at], "init", scope)
            else:
                yield Block(kind, name, start, at, pairs[at])
                if kind in ("namespace", "class", "init"):
                    yield from _scan(code, pairs, at + 1, pairs[at], kind, name)
                head = pairs[at] + 1
            at = pairs[at]
        at += 1


def blocks(text):
    """Every block outside of functions, and every macro of several lines."""
    code = strip(text)
    for macro in DIRECTIVE.finditer(code):
        name = re.match(r"\s*#\s*define\s+(\w+)", macro[0])
        if name and "\n" in macro[0]:
            yield Block("macro", name[1], macro.start(), macro.start(), macro.end())
    code = DIRECTIVE.sub(lambda m: _blank(m[0]), code)
    yield from _scan(code, _pairs(code), 0, len(code), "namespace", "")


def functions(text):
    """(name, lines) of every function and macro."""
    for b in blocks(text):
        if b.kind in ("function", "macro"):
            yield b.name, line_of(text, b.close) - line_of(text, b.begin) + 1


def members(text, block):
    """[(type, name)] of the data members of a class."""
    code = strip(text)
    body = code[block.open + 1:block.close]
    inner = [b for b in blocks(text) if block.open < b.open < block.close]
    for b in inner:  # methods and nested classes are no statements; values in braces are empty
        whole = b.begin if b.kind in ("function", "class", "enum") else b.open
        low, high = whole - block.open - 1, b.close - block.open
        body = body[:low] + re.sub(r"[^\n]", " ", body[low:high - 1]) + (
            ";" if b.kind == "function" else " ") + body[high:]
    body = re.sub(r"\b(?:public|private|protected)\s*:", ";", DIRECTIVE.sub("", body))
    found = []
    for statement in body.split(";"):
        statement = re.sub(r"alignas\s*\([^()]*\)", "", statement).strip()
        if not statement or re.match(r"(static|using|typedef|friend|template|enum)\b", statement):
            continue
        declared = re.sub(r"=[^,]*", "", _flat(statement))
        if "(" in declared or "operator" in declared:
            continue
        while "<" in declared:
            fewer = re.sub(r"<[^<>]*>", "", declared)
            if fewer == declared:
                break
            declared = fewer
        first = re.match(r"(.*?)(\w+)\s*(?:\[[^\]]*\]\s*)*(?::\s*\w+\s*)?(?:,|$)", declared, re.S)
        if first and first[1].strip():
            found.append((first[1].strip(), first[2]))
            found += [(first[1].strip(), name)
                      for name in re.findall(r"[\s*&]*(\w+)[^,]*", declared[first.end():])]
    return found
