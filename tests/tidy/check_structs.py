"""Every struct of the agreement has a layout that the compiler checks and a reader can see."""

import re

import cpp

FOLDER = "protocol/"
# Not what a message or board says: its head, and bytes that are nothing.
PLAIN = re.compile(r"head|header|(?:\w+_)?(?:zero|unused|reserved|pad|padding)_?")


def lacks(text, block, name):
    """Which asserts and pictures the struct lacks."""
    asserts = " ".join(re.findall(r"static_assert\s*\((.*?)\)\s*;", cpp.strip(text), re.S))
    missing = [what for what in ("sizeof", "alignof")
               if not re.search(rf"\b{what}\({name}\)\s*==\s*[\w]", asserts)]
    told = [m for _, m in cpp.members(text, block) if not PLAIN.fullmatch(m)]
    stated = set(re.findall(rf"\boffsetof\({name},\s*(\w+)\)\s*==\s*\w", asserts))
    if len(told) > 2 and not stated & set(told):
        missing.append("offsetof")
    above = text[:block.begin].rstrip(" \t").split("\n")[:-1]
    comment = []
    while above and above[-1].lstrip().startswith("//"):
        comment.append(above.pop())
    if not re.search(r"\d", "\n".join(comment)):
        missing.append("picture")
    return missing


def structs(tree, not_shared, exempt):
    wrong, seen, held = [], {}, {}
    for file in tree.of_kind("header", "source"):
        if not file.startswith(FOLDER):
            continue
        text = tree.text(file)
        for block in cpp.blocks(text):
            if block.kind != "class":
                continue
            name = block.name.split("::")[-1]
            if name in seen:
                wrong.append(f"{file}: a second struct {name}")
            seen[name] = missing = lacks(text, block, name)
            if name in not_shared:
                if "sizeof" not in missing:
                    wrong.append(f"{name} has asserts: it is shared, not in NOT_SHARED")
                continue
            for kind, member in cpp.members(text, block):
                held.update({word: f"{name}::{member}" for word in re.findall(r"\w+", kind)
                             if "*" not in kind and "&" not in kind})
            beyond = [what for what in missing if what not in exempt.get(name, [])]
            if beyond:
                wrong.append(f"{file}: {name} lacks {', '.join(beyond)}")
    for name, reason in not_shared.items():
        if name not in seen or not reason:
            wrong.append(f"NOT_SHARED: {name} " + ("has no reason" if name in seen else "is gone"))
        elif name in held:
            wrong.append(f"NOT_SHARED: {name} is shared, as {held[name]}")
    for name, lacking in exempt.items():
        for what in lacking:
            if what not in seen.get(name, []):
                wrong.append(f"{name} does not lack {what}: delete it from its exemption")
    return wrong
