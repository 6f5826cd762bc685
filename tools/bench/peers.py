#!/usr/bin/env python3
"""Joins rows of `sffn bench ops` with those of other programs, by (name, shape), into one table.

    tools/bench/peers.py --ours ours.json [--rows torch.jsonl]... [--commands peers.txt] [--json]

--rows       JSON lines {"name", "shape", "ms"} of a program that has run; "peer" names it, else the file does.
--commands   one shell command a line; {rows} becomes the path of ours.json. What a command prints is read likewise. This
             file is the user's: none is kept here, and lines that begin with # are skipped.
A ratio is the peer's time over ours: above 1 ours is faster. Lines of a peer that no row of ours has are counted.
"""
import argparse
import json
import os
import shlex
import subprocess
import sys


def our_rows(report):
    groups = report.get("groups") or {"": report.get("matmul", []) + report.get("ops", [])}
    for group, rows in groups.items():
        for row in rows:
            yield group, row


def parse_lines(text, default_peer):
    """{(name, shape): {peer: ms}}; lines that are not such objects, a compiler's messages say, are skipped."""
    found = {}
    for line in text.splitlines():
        try:
            row = json.loads(line)
            key, ms = (row["name"], row["shape"]), row.get("ms")
        except (ValueError, TypeError, KeyError):
            continue
        if isinstance(ms, (int, float)):
            found.setdefault(key, {})[row.get("peer", default_peer)] = float(ms)
    return found


def run_command(command, rows_path, seconds):
    command = command.replace("{rows}", shlex.quote(rows_path))
    try:
        ran = subprocess.run(command, shell=True, stdout=subprocess.PIPE, text=True, timeout=seconds)
        if ran.returncode != 0:
            print(f"peers: exit code {ran.returncode} of: {command}", file=sys.stderr)
        return ran.stdout
    except subprocess.TimeoutExpired as error:
        print(f"peers: stopped after {seconds} s: {command}", file=sys.stderr)
        return error.stdout.decode() if isinstance(error.stdout, bytes) else error.stdout or ""


def join(report, lines):
    """Our rows, each with "peers": {peer: {"ms", "ratio"}}, and how many of the peers' lines met none."""
    joined, met = [], set()
    for group, row in our_rows(report):
        key = (row["name"], row["shape"])
        peers = lines.get(key, {})
        met.add(key)
        joined.append({**row, "group": group,
                       "peers": {peer: {"ms": ms, "ratio": ms / row["ms"]} for peer, ms in peers.items()}})
    return joined, sum(len(peers) for key, peers in lines.items() if key not in met)


def number(value, digits=3):
    return "-" if value is None else f"{value:.{digits}f}"


def table(rows):
    peers = sorted({peer for row in rows for peer in row["peers"]})
    head = ["name", "shape", "ms", "predicted ms", "GB/s", "TFLOP/s", "of roofline", "of predicted", "error"]
    out = ["| " + " | ".join(head + [f"{peer}, ms (ratio)" for peer in peers]) + " |",
           "|" + "---|" * (len(head) + len(peers))]
    for row in rows:
        error = row.get("error")
        cells = [row["name"], row["shape"], number(row["ms"], 4), number(row.get("predicted_ms"), 4),
                 number(row.get("gb_per_s"), 0), number(row.get("tflops"), 1), number(row.get("of_roofline")),
                 number(row.get("of_predicted")), "-" if error is None else f"{error:.1e}"]
        for peer in peers:
            of_peer = row["peers"].get(peer)
            cells.append("-" if of_peer is None else f"{of_peer['ms']:.4f} ({of_peer['ratio']:.2f})")
        out.append("| " + " | ".join(cells) + " |")
    return "\n".join(out)


def merge(into, more):
    for key, peers in more.items():
        into.setdefault(key, {}).update(peers)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", required=True)
    parser.add_argument("--rows", action="append", default=[])
    parser.add_argument("--commands")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for each command")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with open(options.ours) as file:
        report = json.load(file)
    lines = {}
    for path in options.rows:
        with open(path) as file:
            merge(lines, parse_lines(file.read(), os.path.basename(path)))
    if options.commands:
        with open(options.commands) as file:
            for command in filter(None, (line.strip() for line in file)):
                if not command.startswith("#"):
                    printed = run_command(command, options.ours, options.timeout)
                    merge(lines, parse_lines(printed, os.path.basename(shlex.split(command)[0])))
    rows, strangers = join(report, lines)
    if options.json:
        print(json.dumps({"rows": rows, "unmatched": strangers}, indent=2))
    else:
        print(table(rows))
        if strangers:
            print(f"\n{strangers} lines of peers have no row of ours.")


if __name__ == "__main__":
    main()
