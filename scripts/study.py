#!/usr/bin/env python3
"""Gathers the runs of scripts/study.sh into a table and a picture. Start that script; it calls this one."""
import argparse
import json
import math
import pathlib
import statistics
import sys

from svg import Svg

COLOURS = ["#444444", "#d62728", "#ff7f0e", "#9467bd", "#1f77b4", "#2ca02c"]


def read_run(folder):
    config = json.loads((folder / "config.json").read_text())
    plan = json.loads((folder / "plan.json").read_text())
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    evaluation = [r["eval"]["prose"] for r in records if "eval" in r][-1]
    last = [r for r in records if "loss" in r][-1]
    load = [layer["load_max_over_mean"] for layer in last["ffn"].values() if "load_max_over_mean" in layer]
    dead = [layer["dead_blocks"] for layer in last["ffn"].values() if "dead_blocks" in layer]
    return {
        "name": config["name"], "seed": config["train"]["seed"], "perplexity": evaluation["perplexity"],
        "bits": evaluation["bits_per_byte"], "flops": plan["flops"]["train_per_token"] * last["tokens"],
        "tokens": last["tokens"], "parameters": plan["parameters"]["total"],
        "load": max(load, default=math.nan), "dead": max(dead, default=math.nan),
    }


def gather(folder, steps):
    groups = {}
    for run in sorted(folder.glob(f"*-steps{steps}")):
        if '"end":"done"' in (run / "metrics.jsonl").read_text():
            result = read_run(run)
            groups.setdefault(result["name"], []).append(result)
    if not groups:
        sys.exit(f"error: {folder}: holds no finished run of {steps} steps")
    order = ["dense", "rand_hash g=64", "switch g=512", "vanilla_m g=1", "avg_k g=64", "avg_k g=8"]
    return {name: groups[name] for name in order if name in groups}


def number(value, digits):
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def table(groups):
    lines = ["| method | parameters | training FLOPs | perplexity, mean | spread over seeds | bits/byte | most loaded block / mean | dead blocks |",
             "|---|---|---|---|---|---|---|---|"]
    for name, runs in groups.items():
        values = [run["perplexity"] for run in runs]
        lines.append(
            f"| `{name}` | {runs[0]['parameters']:,} | {runs[0]['flops']:.3g} | {statistics.mean(values):.3f} | "
            f"{min(values):.3f} – {max(values):.3f} ({len(values)} seeds) | {statistics.mean(r['bits'] for r in runs):.4f} | "
            f"{number(statistics.mean(r['load'] for r in runs), 1)} | {number(100 * statistics.mean(r['dead'] for r in runs), 0)} % |")
    return "\n".join(lines).replace("– %", "–")


def draw(groups, path):
    flops = [run["flops"] for runs in groups.values() for run in runs]
    values = [run["perplexity"] for runs in groups.values() for run in runs]
    left, right, top, bottom = 70, 520, 50, 370
    low_x, high_x = min(flops) * 0.97, max(flops) * 1.03
    margin = 0.08 * (max(values) - min(values)) + 1e-9
    low_y, high_y = min(values) - margin, max(values) + margin
    to_x = lambda x: left + (math.log(x / low_x)) / math.log(high_x / low_x) * (right - left)
    to_y = lambda y: bottom - (y - low_y) / (high_y - low_y) * (bottom - top)
    picture = Svg(700, 430)
    picture.text(left, 24, "Validation perplexity against training FLOPs, each dot a seed", 15)
    picture.line([(left, top), (left, bottom), (right, bottom)], "#222")
    for i in range(5):
        y = low_y + (high_y - low_y) * i / 4
        picture.text(left - 6, to_y(y) + 4, f"{y:.2f}", 11, "end")
        picture.line([(left, to_y(y)), (right, to_y(y))], "#eee")
        x = low_x * (high_x / low_x) ** (i / 4)
        picture.text(to_x(x), bottom + 18, f"{x:.2e}", 11, "middle")
    picture.text((left + right) / 2, bottom + 42, "training FLOPs (log scale)", 12, "middle")
    picture.text(18, (top + bottom) / 2, "perplexity per byte", 12, "middle", turn=-90)
    for colour, (name, runs) in zip(COLOURS, groups.items()):
        for run in runs:
            picture.circle(to_x(run["flops"]), to_y(run["perplexity"]), 5, colour)
        row = top + 20 * list(groups).index(name)
        picture.circle(right + 24, row, 5, colour)
        picture.text(right + 36, row + 4, name)
    picture.write(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=pathlib.Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    groups = gather(arguments.runs, arguments.steps)
    arguments.out.mkdir(parents=True, exist_ok=True)
    draw(groups, arguments.out / "perplexity.svg")
    (arguments.out / "table.md").write_text(table(groups) + "\n")
    print(table(groups))
    print(f"\nwrote {arguments.out}/table.md and {arguments.out}/perplexity.svg")


if __name__ == "__main__":
    main()
