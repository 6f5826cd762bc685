#!/usr/bin/env python3
"""The slots of scripts/gpu_check.sh, which looks for a GPU and builds first. Each slot has its own limit and is written
to OUT/result.json and OUT/README.md as soon as it ends, so that whatever stops the run leaves those before it."""
import argparse
import concurrent.futures
import datetime
import glob
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time

from gpu_check_ranks import ranks
from gpu_check_run import CPUS, ROOT, Late, Run

sys.path.insert(0, os.path.join(ROOT, "tools", "bench"))
import gpu_check_report  # noqa: E402
import peers as join_peers  # noqa: E402

WORKERS = max(2, min(12, CPUS))  # processes of tests at a time; benchmarks run alone


# ---- Slots: take a Run, return a result; its "good" is False where something is wrong ----


def tests(run_):
    if shutil.which("ctest") and os.path.exists(os.path.join(run_.build, "CTestTestfile.cmake")):
        code, printed = run_.command("ctest", "--test-dir", run_.build, "-L", "gpu", "-j", WORKERS, "--timeout", 120,
                                     "--output-on-failure", processes=WORKERS)
    else:
        code, printed = 0, ""
        for program, arguments in (("test_device", []), ("test_ops", ["~[cpu]"])):
            failed, text = run_.command(os.path.join(run_.build, "tests", program), *arguments)
            code, printed = code or failed, printed + text
    run_.log.write(printed)
    summary = re.findall(r"^(?:\d+% tests passed.*|All tests passed.*|test cases:.*|No tests were found.*)$", printed, re.M)
    return {"good": code == 0 and bool(summary) and "No tests" not in summary[0], "summary": summary}


# What the tests of these tags run is judged by memcheck, as far as the time goes; racecheck is slower still.
MEMCHECK = ["[blocks]", "[attention]", "[routing]", "[top_b]", "[add_norm]", "[cross_entropy]", "[embedding]", "[cells]",
            "[product_keys]", "[adamw]", "[matmul]", "[activation]", "[gate]", "[aggregate]"]
RACECHECK = ["[top_b]", "[softmax]", "[blocks]"]


def in_parallel(jobs, work):
    """[work(job)] in the order of the jobs, several at a time; None for those that the time was too short for."""
    def judged(job):
        try:
            return work(job)
        except Late:
            return None

    with concurrent.futures.ThreadPoolExecutor(WORKERS // 2) as pool:
        return list(pool.map(judged, jobs))


def sanitizer(run_):
    tool = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not os.access(tool, os.X_OK):
        return {"good": None, "summary": ["compute-sanitizer is not on this machine"]}
    program = os.path.join(run_.build, "tests", "test_ops")

    def judge(job):
        kind, tag = job
        code, printed = run_.command(tool, "--tool", kind, "--error-exitcode", 9, program, tag + "~[cpu]",
                                     processes=WORKERS // 2)
        run_.log.write(printed)
        return code

    jobs = [("memcheck", tag) for tag in MEMCHECK] + [("racecheck", tag) for tag in RACECHECK]
    codes = dict(zip(jobs, in_parallel(jobs, judge)))
    checked = [" ".join(job) for job, code in codes.items() if code is not None]
    bad = [" ".join(job) for job, code in codes.items() if code]
    late = [" ".join(job) for job, code in codes.items() if code is None]
    return {"good": bool(checked) and not bad, "checked": checked, "late": late,
            "summary": [f"clean: {len(checked) - len(bad)} of {len(checked)}"] + bad +
                       ([f"not done in time: {', '.join(late)}"] if late else [])}


def compare(run_):
    def lockstep(job):
        config, precision = job
        row = {"name": os.path.basename(config)[:-5], "precision": precision}
        _, printed = run_.command(run_.sffn, "compare", config, "--backends", "cpu,cuda", "--steps", 1 if run_.small else 2,
                                  "--set", f"train.precision={precision}", "--json", processes=WORKERS // 2)
        try:
            report = json.loads(printed)
            worst = max(report["tensors"], key=lambda t: t["error"] / t["tolerance"] if t["tolerance"] else t["error"])
            return {**row, "agree": report["agree"], "worst": worst, "first": report.get("first")}
        except ValueError:
            return {**row, "agree": False, "error": "it printed no JSON"}

    configs = sorted(glob.glob(os.path.join(ROOT, "configs", "tiny", "*.json")))
    jobs = [(config, precision) for config in configs for precision in ("fp32", "bf16")]
    if run_.small:
        jobs = [(config, "fp32") for config in configs[:2]]
    rows = [row or {"name": os.path.basename(config)[:-5], "precision": precision, "agree": False, "error": "not done in time"}
            for (config, precision), row in zip(jobs, in_parallel(jobs, lockstep))]
    return {"good": bool(rows) and all(row["agree"] for row in rows), "rows": rows}


def one_micro_batch(sequences, context):
    """A step of so many sequences at once."""
    return "--set", f"train.micro_batch={sequences}", "--set", f"train.tokens_per_step={sequences * context}"


def ops(group, config, *arguments):
    def slot(run_):
        path, further = os.path.join(ROOT, "configs", config), arguments
        if run_.small:
            path, further = os.path.join(ROOT, "configs", "tiny", "dense.json"), ["--small", "--repeats", 1]
        report = run_.json_of(run_.sffn, "bench", "ops", path, "--backend", "cuda", "--group", group, "--json", *further)
        path = os.path.join(run_.out, "rows.json")
        with open(path, "w") as file:
            json.dump(report, file)
        lines = {}
        try:
            if run_.has_torch:
                _, printed = run_.command(sys.executable, os.path.join(ROOT, "tools", "bench", "pytorch_ops.py"), "--rows",
                                          path, "--seconds", max(5, run_.left() - 5))
                join_peers.merge(lines, join_peers.parse_lines(printed, "torch"))
            if run_.peers_file:
                with open(run_.peers_file) as file:
                    for command in filter(None, (line.strip() for line in file)):
                        if not command.startswith("#"):
                            printed = join_peers.run_command(command, path, run_.left())
                            join_peers.merge(lines, join_peers.parse_lines(printed, command.split()[0]))
        except Late as late:
            join_peers.merge(lines, join_peers.parse_lines(late.printed or "", "torch"))
        finally:
            os.remove(path)
        rows, _ = join_peers.join(report, lines)
        wrong = [row["name"] + " " + row["shape"] for row in rows if (row.get("of_roofline") or 0) > 1]
        wrong += [row["name"] + " " + row["shape"] for row in rows if (row.get("error") or 0) > 0.05]
        return {"good": bool(rows) and not wrong, "device": report["device"], "rows": rows, "suspect": wrong}

    return slot


def step(config, micro_batch, predicted, torch_arguments, sparse=None):
    """predicted: tokens a second at 85% of an H200's ceilings, and at them."""

    def slot(run_):
        command = [run_.sffn, "bench", "step", os.path.join(ROOT, "configs", config), "--backend", "cuda", "--json",
                   "--profile", "--warm-up", 10, "--steps", 30, *one_micro_batch(micro_batch, 1024), "--set",
                   "train.precision=bf16"]
        if sparse:
            command += ["--set", "model.sparse_ffn=" + json.dumps([sparse])]
        if run_.small:
            command = [run_.sffn, "bench", "step", os.path.join(ROOT, "configs", "tiny", "avg_k.json"), "--backend", "cuda",
                       "--json", "--profile", "--warm-up", 1, "--steps", 2]
        report = run_.json_of(*command)
        result = {"good": report["tokens_per_second"] > 0, "step": report, "predicted_h200": predicted}
        if run_.has_torch and torch_arguments:
            try:
                result["torch"] = run_.json_of(sys.executable, os.path.join(ROOT, "tools", "bench", "pytorch_step.py"),
                                               "--device", "cuda", "--compile", "--precision", "bf16", "--steps", 20,
                                               "--warmup", 5, *torch_arguments)
            except (RuntimeError, ValueError, Late) as error:
                result["torch"] = {"error": str(error)}
        return result

    return slot


TORCH_124M = "--layers 12 --d-model 768 --heads 12 --vocab 50304 --context 1024 --micro-batch 64".split()
TORCH_BACKBONE = "--layers 24 --d-model 1024 --heads 16 --vocab 50304 --context 1024 --micro-batch 32".split()


def sparse_step(block_size, predicted):
    entry = {"layers": {"every": 6}, "type": "avg_k", "block_size": block_size, "expansion": 16, "active_cells": 4096}
    return step("bench/backbone.json", 32, predicted, None, entry)


def layer(block_size):
    return ops("D", "bench/backbone.json", "--block-size", str(block_size))


# Name, title, limit in seconds, slot: in the order in which they matter.
SLOTS = [
    ("tests", "tests of the CUDA backend", 120, tests),
    ("sanitizer", "op tests under compute-sanitizer", 60, sanitizer),
    ("compare", "CPU and GPU in lockstep, every method", 45, compare),
    ("ranks", "two ranks of one card, over NCCL", 50, ranks),
    ("A", "ceilings of the device, and the products of GPT-2 124M", 30,
     ops("A", "gpt2-124m.json", *one_micro_batch(64, 1024))),
    ("E-124m", "a step of GPT-2 124M, 64 sequences of 1024", 70, step("gpt2-124m.json", 64, [626e3, 736e3], TORCH_124M)),
    ("D-64", "the reference layer, blocks of 64", 30, layer(64)),
    ("D-256", "the reference layer, blocks of 256", 25, layer(256)),
    ("D-1024", "the reference layer, blocks of 1024", 25, layer(1024)),
    ("D-4096", "the reference layer, one block of 4096", 25, layer(4096)),
    ("E-backbone", "a step of the backbone, 32 sequences of 1024", 70,
     step("bench/backbone.json", 32, [228e3, 269e3], TORCH_BACKBONE)),
    ("E-64", "the backbone with 4 sparse layers, blocks of 64", 25, sparse_step(64, [184e3, 216e3])),
    ("E-256", "the backbone with 4 sparse layers, blocks of 256", 25, sparse_step(256, [219e3, 258e3])),
    ("E-4096", "the backbone with 4 sparse layers, one block of 4096", 25, sparse_step(4096, [224e3, 263e3])),
    ("B", "attention", 30, ops("B", "bench/backbone.json")),
    ("C", "ops bound by memory", 30, ops("C", "bench/backbone.json")),
    ("D-128", "the reference layer, blocks of 128", 25, layer(128)),
    ("D-16", "the reference layer, blocks of 16", 40, layer(16)),
]


def text_of(*command):
    try:
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=20,
                              check=False).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def commit_of(folder):
    """git's, marked where the tree was changed since; None: the folder is no work tree itself."""
    return text_of("env", f"GIT_CEILING_DIRECTORIES={os.path.dirname(folder)}", "git", "-C", folder, "describe", "--always",
                   "--dirty", "--exclude", "*") or None


def machine(run_):
    card = text_of("nvidia-smi", "--query-gpu=name,driver_version,power.limit,memory.total,clocks.max.sm",
                   "--format=csv,noheader", "-i", "0").split(", ")
    keys = ("card", "driver", "power_limit", "memory", "most_clock")
    return {"date": datetime.date.today().isoformat(), **dict(zip(keys, card + [""] * len(keys))),
            "cpus": os.cpu_count(), "system": f"{platform.system()} {platform.machine()}", "build": os.path.basename(os.path.normpath(run_.build)),
            "commit": run_.commit or commit_of(ROOT),
            "sffn": text_of(run_.sffn, "--version"),
            "torch": text_of(sys.executable, "-c", "import torch; print(torch.__version__)") if run_.has_torch else None}


def write(path, text):
    with open(path + ".new", "w") as file:
        file.write(text)
    os.replace(path + ".new", path)


def run_slot(run_, name, title, limit, slot):
    begin = time.monotonic()
    record = {"title": title, "limit_s": limit}
    if begin > run_.end:
        return {**record, "status": "left out: the time was over"}
    run_.slot_end = min(begin + limit, run_.end)
    try:
        result = slot(run_)
        good = result.pop("good")
        record.update(status="not possible here" if good is None else "good" if good else "bad", result=result)
    except Late:
        record["status"] = "stopped at its limit"
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        record.update(status="failed", error=str(error))
    record["seconds"] = round(time.monotonic() - begin, 1)
    print(f"{name}: {record['status']} after {record['seconds']} s", flush=True)
    return record


def check(options, slots):
    run_ = Run(options)
    os.makedirs(run_.out, exist_ok=True)
    report = {"machine": machine(run_), "slots": {}}
    with open(os.path.join(run_.out, "log.txt"), "w") as run_.log:
        for name, title, limit, slot in slots:
            report["slots"][name] = run_slot(run_, name, title, limit, slot)
            write(os.path.join(run_.out, "result.json"), json.dumps(report, indent=1) + "\n")
            write(os.path.join(run_.out, "README.md"), gpu_check_report.markdown(report))
    return report


def default_out():
    card = text_of("nvidia-smi", "--query-gpu=name", "--format=csv,noheader", "-i", "0") or "no-card"
    name = re.sub(r"[^a-z0-9]+", "-", card.lower().replace("nvidia ", "")).strip("-")
    return os.path.join(ROOT, "docs", "benchmarks", f"{datetime.date.today().isoformat()}-{name}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build")
    parser.add_argument("--out")
    parser.add_argument("--seconds", type=float, default=590)
    parser.add_argument("--slots", default="")
    parser.add_argument("--peers")
    parser.add_argument("--commit", help="what was checked, in place of git's HEAD")
    parser.add_argument("--small", action="store_true", help="sizes that try the program, not the machine: for tests")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    if options.list:
        for name, title, limit, _ in SLOTS:
            print(f"{name:12} {limit:4} s  {title}")
        return 0
    wanted = [name for name in options.slots.split(",") if name] or [name for name, *_ in SLOTS]
    unknown = set(wanted) - {name for name, *_ in SLOTS}
    if unknown or not options.build:
        parser.error(f"unknown slots: {', '.join(sorted(unknown))}" if unknown else "--build DIR is missing")
    options.out = options.out or default_out()
    report = check(options, [slot for slot in SLOTS if slot[0] in wanted])
    print(f"wrote {options.out}")
    return 0 if all(slot["status"] in ("good", "not possible here") for slot in report["slots"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
