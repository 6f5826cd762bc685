#!/usr/bin/env python3
"""The slots of scripts/gpu_check.sh, which looks for a GPU and builds first. Each slot has its own limit and is written
to OUT/result.json and OUT/README.md as soon as it ends, so that whatever stops the run leaves those before it."""
import argparse
import datetime
import glob
import itertools
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time

import gpu_check_report
from gpu_check_ops import one_micro_batch, ops
from gpu_check_ranks import ranks
from gpu_check_run import ROOT, WORKERS, Late, Run, in_parallel
from gpu_check_sanitizer import sanitizer


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
    rows = [row or {"name": os.path.basename(config)[:-5], "precision": precision, "agree": None, "error": "not done in time"}
            for (config, precision), row in zip(jobs, in_parallel(jobs, lockstep))]
    return {"good": judged_rows(run_, [row["agree"] for row in rows]), "rows": rows}


def judged_rows(run_, agree):
    """Whether a slot with such rows is good: None is one that was not done, which is right only where the whole time ended."""
    done = [value for value in agree if value is not None]
    if all(done) and len(done) < len(agree) and run_.at_the_end(0):
        if not done:
            raise Late("")
        return True
    return bool(agree) and all(agree)


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
            except (RuntimeError, ValueError) as error:
                result["torch"] = {"error": str(error)}
            except Late:
                result.update(torch={"cut_off": True}, cut_off={"torch": ["step"]})
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
    ("sanitizer", "op tests under compute-sanitizer", 100, sanitizer),
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


# Statuses of what the whole time was too short for: neither good nor bad.
LEFT_OUT, CUT_SHORT = "left out: the time was over", "cut short: the time was over"


def run_slot(run_, name, title, limit, slot):
    begin = time.monotonic()
    record = {"title": title, "limit_s": limit}
    if begin > run_.end:
        return {**record, "status": LEFT_OUT}
    run_.slot, run_.slot_end = name, min(begin + limit, run_.end)
    try:
        result = slot(run_)
        good = result.pop("good")
        record.update(status="not possible here" if good is None else "good" if good else "bad", result=result)
    except Late:
        record["status"] = CUT_SHORT if run_.at_the_end(limit) else "stopped at its limit"
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        record.update(status="failed", error=str(error))
    record["seconds"] = round(time.monotonic() - begin, 1)
    missing = [f"{peer} ({len(rows)})" for peer, rows in record.get("result", {}).get("cut_off", {}).items()]
    print(f"{name}: {record['status']} after {record['seconds']} s" + (f"; cut off: {', '.join(missing)}" if missing else ""),
          flush=True)
    return record


def check(options, slots):
    run_ = Run(options)
    os.makedirs(run_.out, exist_ok=True)
    report = {"machine": machine(run_), "left_out": [], "slots": {}}
    with open(os.path.join(run_.out, "log.txt"), "w") as run_.log:
        for name, title, limit, slot in slots:
            report["slots"][name] = run_slot(run_, name, title, limit, slot)
            if report["slots"][name]["status"] in (LEFT_OUT, CUT_SHORT):
                report["left_out"].append(name)
            write(os.path.join(run_.out, "result.json"), json.dumps(report, indent=1) + "\n")
            write(os.path.join(run_.out, "README.md"), gpu_check_report.markdown(report))
    return report


def exit_code(report):
    """0 where every slot that ran is good and at least one ran."""
    ran = [slot["status"] for slot in report["slots"].values() if slot["status"] not in (LEFT_OUT, CUT_SHORT)]
    return 0 if ran and all(status in ("good", "not possible here") for status in ran) else 1


def default_out(folder):
    """The next free name of DATE-CARD, DATE-CARD-2, DATE-CARD-3, … in the folder."""
    card = text_of("nvidia-smi", "--query-gpu=name", "--format=csv,noheader", "-i", "0") or "no-card"
    name = re.sub(r"[^a-z0-9]+", "-", card.lower().replace("nvidia ", "")).strip("-")
    first = os.path.join(folder, f"{datetime.date.today().isoformat()}-{name}")
    names = itertools.chain([first], (f"{first}-{i}" for i in itertools.count(2)))
    return next(path for path in names if not os.path.exists(path))


def slots_of(names):
    """The slots of --slots, in the order of SLOTS; NAME=SECONDS gives one another limit."""
    wanted = dict(name.partition("=")[::2] for name in names.split(",") if name) or dict.fromkeys(slot[0] for slot in SLOTS)
    unknown = sorted(set(wanted) - {slot[0] for slot in SLOTS})
    if unknown:
        raise ValueError(f"unknown slots: {', '.join(unknown)}")
    return [(name, title, float(wanted[name] or limit), slot) for name, title, limit, slot in SLOTS if name in wanted]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build")
    parser.add_argument("--out")
    parser.add_argument("--seconds", type=float, default=590)
    parser.add_argument("--spent", type=float, default=0, help="of these seconds, what a build before this took")
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
    try:
        slots = slots_of(options.slots)
    except ValueError as error:
        parser.error(str(error))
    if not options.build:
        parser.error("--build DIR is missing")
    if options.spent >= options.seconds:
        print(f"error: the build took {options.spent:.0f} s of {options.seconds:.0f}, and no slot was begun; it is done now: "
              "call again with --build " + options.build, file=sys.stderr)
        return 1
    options.out = options.out or default_out(os.path.join(ROOT, "docs", "benchmarks"))
    report = check(options, slots)
    if report["left_out"]:
        print(f"left out, as the time was over: {', '.join(report['left_out'])}")
    print(f"wrote {options.out}")
    return exit_code(report)


if __name__ == "__main__":
    sys.exit(main())
