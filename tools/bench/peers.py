#!/usr/bin/env python3
"""Joins rows of `sffn bench ops` with those of other programs, by (name, shape), into one table.

    tools/bench/peers.py --ours ours.json [--rows torch.jsonl]... [--commands peers.txt] [--json]

--rows       JSON lines {"name", "shape", "ms"} of a program that has run; "peer" names it, else the file does.
--commands   one shell command a line; {rows} becomes the path of ours.json. What a command prints is read likewise. This
             file is the user's: none is kept here, and lines that begin with # are skipped.
A ratio is the peer's time over ours: above 1 ours is faster. Lines of a peer that no row of ours has are counted. A line
with "error", "cut_off" or "planned" in place of "ms" says what is missing; the table has "failed" or "cut off" there.
"""
import argparse
import json
import os
import shlex
import signal
import subprocess
import sys

CUT_OFF = "cut off"  # why a row is missing: the time was over


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


def parse_missing(text, default_peer, unfinished=CUT_OFF):
    """{(name, shape): {peer: why}} of rows without "ms"; unfinished: why those are missing that were planned and no more."""
    found = {}
    for line in text.splitlines():
        try:
            row = json.loads(line)
            peers = found.setdefault((row["name"], row["shape"]), {})
        except (ValueError, TypeError, KeyError):
            continue
        peer = row.get("peer", default_peer)
        if isinstance(row.get("ms"), (int, float)):
            peers.pop(peer, None)
        elif "error" in row:
            peers[peer] = f"failed: {row['error']}"
        elif row.get("cut_off"):
            peers[peer] = CUT_OFF
        elif row.get("planned"):
            peers[peer] = unfinished
    return {key: peers for key, peers in found.items() if peers}


def commands_of(path):
    with open(path) as file:
        return [line.strip() for line in file if line.strip() and not line.strip().startswith("#")]


def with_rows(command, rows_path):
    return command.replace("{rows}", shlex.quote(rows_path))


def peer_of(command):
    return os.path.basename(shlex.split(command)[0])


def run_command(command, rows_path, seconds):
    """(what it printed, whether it was stopped). What it started ends with it."""
    command = with_rows(command, rows_path)
    process = subprocess.Popen(["sh", "-c", command], stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        printed, _ = process.communicate(timeout=seconds)
        if process.returncode != 0:
            print(f"peers: exit code {process.returncode} of: {command}", file=sys.stderr)
        return printed, False
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        print(f"peers: stopped after {seconds} s: {command}", file=sys.stderr)
        return process.communicate()[0], True


def cut_off_rows(report, printed, default_peer):
    """parse_missing of a peer that was stopped: where it had not said what it would time, each row of ours that it lacks."""
    missing, lines = parse_missing(printed, default_peer), parse_lines(printed, default_peer)
    if missing:
        return missing
    named = {peer for peers in lines.values() for peer in peers} or {default_peer}
    keys = [(row["name"], row["shape"]) for _, row in our_rows(report)]
    return {key: dict.fromkeys(named - set(lines.get(key, {})), CUT_OFF) for key in keys}


def join(report, lines, missing=None):
    """Our rows, each with "peers": {peer: {"ms", "ratio"}} and, where there is something to say, "missing": {peer: why},
    and how many of the peers' lines met none."""
    joined, met = [], set()
    for group, row in our_rows(report):
        key = (row["name"], row["shape"])
        peers = lines.get(key, {})
        met.add(key)
        row = {**row, "group": group,
               "peers": {peer: {"ms": ms, "ratio": ms / row["ms"]} for peer, ms in peers.items()}}
        lacks = {peer: why for peer, why in (missing or {}).get(key, {}).items() if peer not in peers}
        joined.append({**row, "missing": lacks} if lacks else row)
    return joined, sum(len(peers) for key, peers in lines.items() if key not in met)


def number(value, digits=3):
    return "-" if value is None else f"{value:.{digits}f}"


def table(rows):
    peers = sorted({peer for row in rows for peer in (*row["peers"], *row.get("missing", {}))})
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
            cells.append(row.get("missing", {}).get(peer, "-").split(":")[0] if of_peer is None
                         else f"{of_peer['ms']:.4f} ({of_peer['ratio']:.2f})")
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
    lines, missing = {}, {}

    def read(printed, peer, stopped=False):
        merge(lines, parse_lines(printed, peer))
        merge(missing, cut_off_rows(report, printed, peer) if stopped else parse_missing(printed, peer))

    for path in options.rows:
        with open(path) as file:
            read(file.read(), os.path.basename(path))
    for command in commands_of(options.commands) if options.commands else ():
        printed, stopped = run_command(command, options.ours, options.timeout)
        read(printed, peer_of(command), stopped)
    rows, strangers = join(report, lines, missing)
    if options.json:
        print(json.dumps({"rows": rows, "unmatched": strangers}, indent=2))
    else:
        print(table(rows))
        if strangers:
            print(f"\n{strangers} lines of peers have no row of ours.")


if __name__ == "__main__":
    main()
