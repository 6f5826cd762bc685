#!/usr/bin/env python3
"""What `sffn plan --ranks` predicts beside what this machine does, on 1, 2 and 4 ranks of one thread, for every way to spread
the blocks of configs/bench/sparse.json over them.

    scripts/bench_scaling.py [--rounds 5] [--steps 5] [--micro-batch 4] [--below-load LOAD]

The plan is given two things measured in the same rounds: links by `sffn bench comm` on as many ranks, and rates by
`sffn bench step` in as many processes that run beside each other without exchanging anything (what a core gives a rank
depends on how many share it). Each round measures everything once, in turn; medians over the rounds. Prints Markdown tables;
a minute a round, on an idle machine. --below-load waits before each round until others leave the machine alone.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
SFFN = ROOT / "build-cpu/tools/sffn"
RANKS = (1, 2, 4)
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
OF_A_SUM = 5  # bytes of memory for a byte of gradients sent, and 2 for one kept (src/train/scaling.cpp)


def start(command):
    return subprocess.Popen([str(word) for word in command], env=ENVIRONMENT, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)


def answer(process):
    out, err = process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"error: {' '.join(process.args)}: {err.strip()}")
    return json.loads(out)


def on_ranks(ranks, command):
    return answer(start(["mpirun", "-np", ranks, "--bind-to", "none", "--oversubscribe", *command]))


def model(arguments, expert=1):
    return [ROOT / "configs/bench/sparse.json", "--json", "--set", f"train.micro_batch={arguments.micro_batch}",
            "--set", f"parallel.expert={expert}"]


def figures(text):
    return {key: float(value) for key, value in (item.split("=") for item in text.split(","))}


def text_of(numbers):
    return ",".join(f"{key}={int(value) if key == 'per_node' else f'{value:.4g}'}" for key, value in numbers.items())


def median_of(objects):
    return {key: statistics.median(o[key] for o in objects) for key in objects[0]}


def measure_round(arguments):
    """(links by ranks, rates by ranks, collectives by ranks, steps by (ranks, expert))"""
    links, rates, collectives, steps = {}, {}, {}, {}
    bench = [SFFN, "bench", "step", *model(arguments), "--steps", arguments.steps]
    for ranks in RANKS:
        beside = [start(bench) for _ in range(ranks)]
        alone = [figures(answer(process)["rates"]) for process in beside]
        rates[ranks] = {key: statistics.mean(a[key] for a in alone) for key in alone[0]}
        if ranks > 1:
            report = on_ranks(ranks, [SFFN, "bench", "comm", "--json"])
            links[ranks] = figures(report["network"])
            collectives[ranks] = {(row["collective"], row["bytes"]): row["ms"] for row in report["collectives"]}
        for expert in (e for e in RANKS if e <= ranks):
            steps[ranks, expert] = {key: value for key, value in on_ranks(
                ranks, [SFFN, "bench", "step", *model(arguments, expert), "--steps", arguments.steps]).items()
                if key in ("step_ms", "exposed_communication_ms", "least_communication_ms")}
    return links, rates, collectives, steps


def predict(arguments, ranks, links, rates):
    context = json.loads((ROOT / "configs/bench/sparse.json").read_text())["model"]["context"]
    plan = answer(start([SFFN, "plan", *model(arguments), "--ranks", f"{ranks}..{ranks}", "--set",
                         f"train.tokens_per_step={ranks * arguments.micro_batch * context}",
                         "--network", text_of(links), "--rates", text_of(rates)]))
    return {row["expert"]: row for row in plan["layouts"]}


def error(predicted, measured):
    return f"{100 * (predicted / measured - 1):+.0f} %" if measured > 0 else "–"


def step_table(predicted, measured):
    lines = ["| ranks | `expert` | step: predicted | measured, ms | error | exposed communication: predicted | measured, ms | error | "
             "without waiting, ms | error |", "|---|---|---|---|---|---|---|---|---|---|"]
    for (ranks, expert), found in measured.items():
        plan = predicted[ranks][expert]
        exposed, least = plan["exposed_communication_ms"], found["least_communication_ms"]
        cells = []
        for key in ("step_ms", "exposed_communication_ms"):
            cells += [f"{plan[key]:.1f}", f"{found[key]:.1f}", error(plan[key], found[key])]
        cells += [f"{least:.1f}", error(exposed, least)]
        lines.append(f"| {ranks} | {expert} | " + " | ".join(cells) + " |")
    return lines


def collective_table(collectives, links, rates):
    lines = ["| ranks | collective | sent by a rank, KiB | predicted, ms | measured, ms | error |", "|---|---|---|---|---|---|"]
    for ranks, rows in collectives.items():
        link = links[ranks]
        for (name, size), measured in rows.items():
            ms = 1e-3 * link["node_us"] * (ranks - 1) + 1e-6 * size / link["node_gbs"]
            if name == "tree_reduce_scatter":
                ms += 1e-6 * size * (OF_A_SUM + 2 / (ranks - 1)) / rates[ranks]["gbs"]
            lines.append(f"| {ranks} | {name} | {size / 1024:.0f} | {ms:.3f} | {measured:.3f} | {error(ms, measured)} |")
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--micro-batch", type=int, default=4)
    parser.add_argument("--below-load", type=float, default=float("inf"))
    arguments = parser.parse_args()
    rounds = []
    for number in range(arguments.rounds):
        while (before := os.getloadavg()[0]) >= arguments.below_load:
            time.sleep(1)
        rounds.append(measure_round(arguments))
        print(f"round {number + 1} of {arguments.rounds}, load before it {before:.1f}", flush=True)
    links, rates, collectives, steps = (
        {key: median_of([r[part][key] for r in rounds]) for key in rounds[0][part]} for part in range(4))
    links[1] = links[RANKS[1]]
    predicted = {ranks: predict(arguments, ranks, links[ranks], rates[ranks]) for ranks in RANKS}
    print("\n| ranks | `--rates` | `--network` |\n|---|---|---|")
    for ranks in RANKS:
        print(f"| {ranks} | `{text_of(rates[ranks])}` | {'–' if ranks == 1 else f'`{text_of(links[ranks])}`'} |")
    print("\n" + "\n".join(step_table(predicted, steps)))
    print("\n" + "\n".join(collective_table({r: collectives[r] for r in RANKS[1:]}, links, rates)))


if __name__ == "__main__":
    main()
