"""The slots of scripts/gpu_check.py for `sffn bench ops`, with PyTorch and other programs beside it."""
import json
import os
import sys

from gpu_check_run import ROOT, Late
import peers as join_peers  # of tools/bench, whose path gpu_check_run adds

TORCH_OPS = os.path.join(ROOT, "tools", "bench", "pytorch_ops.py")
MOST_ERROR = 0.05  # of a product, relative


def one_micro_batch(sequences, context):
    """A step of so many sequences at once."""
    return "--set", f"train.micro_batch={sequences}", "--set", f"train.tokens_per_step={sequences * context}"


def write_rows(run_, name, report):
    path = os.path.join(run_.out, name)
    with open(path, "w") as file:
        json.dump(report, file)
    return path


def of_torch(run_, report):
    """(lines, missing) of PyTorch. What it has timed in a slot before this is not timed again: the layers of group D have
    the same dense one beside them."""
    lines, missing, to_time = {}, {}, []
    for _, row in join_peers.our_rows(report):
        slot = run_.timed_in.get((row["name"], row["shape"]))
        if slot is None:
            to_time.append(row)
        else:
            missing[row["name"], row["shape"]] = dict.fromkeys(slot[1], f"in {slot[0]}")
    part = {"groups": {"": to_time}}
    path = write_rows(run_, "torch_rows.json", part)
    try:
        code, printed = run_.command(sys.executable, TORCH_OPS, "--rows", path, "--seconds", max(5, run_.left() - 5))
        unfinished = join_peers.parse_missing(printed, "torch", f"failed: exit code {code}")
    except Late as late:
        printed = late.printed or ""
        unfinished = join_peers.cut_off_rows(part, printed, "torch")
    finally:
        os.remove(path)
    join_peers.merge(lines, join_peers.parse_lines(printed, "torch"))
    join_peers.merge(missing, unfinished)
    for key, peers in lines.items():
        if join_peers.CUT_OFF not in unfinished.get(key, {}).values():
            run_.timed_in[key] = run_.slot, list(peers)
    return lines, missing


def of_commands(run_, report):
    lines, missing = {}, {}
    path = write_rows(run_, "rows.json", report)
    try:
        for command in join_peers.commands_of(run_.peers_file):
            peer = join_peers.peer_of(command)
            printed, stopped = join_peers.run_command(command, path, run_.left()) if run_.left() > 0 else ("", True)
            join_peers.merge(lines, join_peers.parse_lines(printed, peer))
            join_peers.merge(missing, join_peers.cut_off_rows(report, printed, peer) if stopped
                             else join_peers.parse_missing(printed, peer))
    finally:
        os.remove(path)
    return lines, missing


def cut_off(rows):
    """{peer: [row, …]} of what is missing because the time was over."""
    found = {}
    for row in rows:
        for peer, why in row.get("missing", {}).items():
            if why == join_peers.CUT_OFF:
                found.setdefault(peer, []).append(f"{row['name']} {row['shape']}")
    return found


def ops(group, config, *arguments):
    def slot(run_):
        path, further = os.path.join(ROOT, "configs", config), arguments
        if run_.small:
            path, further = os.path.join(ROOT, "configs", "tiny", "dense.json"), ["--small", "--repeats", 1]
        report = run_.json_of(run_.sffn, "bench", "ops", path, "--backend", "cuda", "--group", group, "--json", *further)
        lines, missing = {}, {}
        for has, peers in ((run_.has_torch, of_torch), (run_.peers_file, of_commands)):
            if has:
                for into, more in zip((lines, missing), peers(run_, report)):
                    join_peers.merge(into, more)
        rows, _ = join_peers.join(report, lines, missing)
        wrong = [f"{row['name']} {row['shape']}" for row in rows
                 if (row.get("of_roofline") or 0) > 1 or (row.get("error") or 0) > MOST_ERROR]
        result = {"good": bool(rows) and not wrong, "device": report["device"], "rows": rows, "suspect": wrong}
        return {**result, "cut_off": cut_off(rows)} if cut_off(rows) else result

    return slot
