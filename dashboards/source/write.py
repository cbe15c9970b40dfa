"""Writes dashboards/*.json from the files beside it.

usage: write.py [DIRECTORY]
"""

import json
import pathlib
import sys

import daemon
import group
import overview
import performance


def texts():
    """file name -> its text."""
    made = [module.make() for module in (overview, group, performance, daemon)]
    return {f"{board['uid']}.json": json.dumps(board, indent=1) + "\n" for board in made}


def main():
    directory = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else
                             pathlib.Path(__file__).resolve().parent.parent)
    for name, text in texts().items():
        (directory / name).write_text(text)


if __name__ == "__main__":
    main()
