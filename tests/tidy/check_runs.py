"""What the README says has run on a GPU has run there: tests/gpu/run keeps the list."""

import re

RAN, COLUMN = "tests/gpu/ran.txt", "real GPU"
DATE = r"\b\d{4}-\d\d-\d\d\b"


def _runs(tree, wrong):
    """[(date, device, what)] of the lines that say nothing failed."""
    runs = []
    for number, line in enumerate(tree.text(RAN).splitlines() if RAN in tree.names else [], 1):
        if line.startswith("#"):
            continue
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) != 5 or not re.fullmatch(DATE, cells[0]) or not all(cells):
            wrong.append(f"{RAN}:{number} is not date | device | driver | what | result")
        elif not re.search(r"[1-9]\d* failed", cells[4]):
            runs.append((cells[0], cells[1], cells[3]))
    return runs


def _claims(tree):
    """(part, cell) of the tables whose last column is COLUMN."""
    inside = False
    for line in tree.text("README.md").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|"):
            inside = False
        elif cells[-1].startswith(COLUMN):
            inside = True
        elif inside and not re.fullmatch("[- ]+", cells[-1]):
            yield cells[0], cells[-1]


def gpu_runs(tree):
    """A cell says `never`, `-`, or which run it was: DATE, DEVICE, `WHAT`, all three on the list."""
    wrong = []
    runs = _runs(tree, wrong)
    claims = list(_claims(tree))
    if not claims:
        wrong.append(f"README.md has no table with a last column '{COLUMN}'")
    for part, cell in claims:
        if re.match(r"never\b|-$", cell) and not re.search(DATE, cell):
            continue
        whats = re.findall(r"`([^`]+)`", cell)
        held = [run for run in runs
                if run[0] in cell and run[1] in cell and run[2] in whats]
        missing = set(whats) - {run[2] for run in held}
        if not held or missing or set(re.findall(DATE, cell)) - {run[0] for run in held}:
            wrong.append(f"README.md: '{part}' claims a run on a GPU that {RAN} does not hold: "
                         f"{cell}")
    return wrong
