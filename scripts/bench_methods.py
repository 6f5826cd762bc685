#!/usr/bin/env python3
"""Time of forward and backward of configs/bench/sparse.json, whose last of 6 layers is sparse, for methods, block sizes and
expansions, over that of the dense model, measured before and after.

    scripts/bench_methods.py [--steps 3] [--methods avg_k,switch,rand_hash,vanilla_m] [--expansions 4,16,64]

Prints a Markdown table; minutes, on an idle machine.
"""
import argparse
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
BLOCK_SIZES = (1, 16, 64, 256, 1024)
DENSE = [{"layers": {"every": 6}, "type": "dense"}]


def measure(entries, steps):
    """(forward and backward in ms, activations of the plan in bytes)"""
    arguments = [ROOT / "configs/bench/sparse.json", "--set", "model.sparse_ffn=" + json.dumps(entries), "--json"]
    run = lambda command, *more: json.loads(subprocess.run(
        [ROOT / "build-cpu/tools/sffn", *command, *arguments, *more], check=True, capture_output=True).stdout)
    step = run(["bench", "step"], "--steps", str(steps))
    plan = run(["plan"])
    return step["forward_backward_ms"], plan["memory"]["per_rank"]["activations"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--methods", default="avg_k,switch,rand_hash,vanilla_m")
    parser.add_argument("--expansions", default="4,16,64")
    arguments = parser.parse_args()
    methods, expansions = arguments.methods.split(","), [int(e) for e in arguments.expansions.split(",")]
    first, kept = measure(DENSE, arguments.steps)
    rows = []
    for method in methods:
        for expansion in expansions:
            cells = []
            for g in BLOCK_SIZES:
                entry = {"layers": {"every": 6}, "type": method, "block_size": g, "expansion": expansion,
                         "active_cells": 1024}
                time, activations = measure([entry], arguments.steps)
                cells.append((time, activations))
                print(f"{method} E={expansion} g={g}: {time:.0f} ms, {activations / 2**20:.0f} MiB kept", file=sys.stderr)
            rows.append((method, expansion, cells))
    last, _ = measure(DENSE, arguments.steps)
    dense = (first + last) / 2
    print(f"dense: {first:.0f} ms before, {last:.0f} ms after, {kept / 2**20:.0f} MiB kept for backward\n")
    print("| method | E | " + " | ".join(f"g = {g}" for g in BLOCK_SIZES) + " | MiB kept |")
    print("|---|---|" + "---|" * (len(BLOCK_SIZES) + 1))
    for method, expansion, cells in rows:
        most = max(activations for _, activations in cells) / 2**20
        print(f"| {method} | {expansion} | " + " | ".join(f"{time / dense:.2f}" for time, _ in cells) + f" | {most:.0f} |")


if __name__ == "__main__":
    main()
