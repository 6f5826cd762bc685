#!/usr/bin/env python3
"""Registers, shared memory and spills of every CUDA kernel, as ptxas tells them, for sm_80 and sm_90a.

    scripts/kernel_resources.py            compiles what changed and writes docs/kernel_resources.md
    scripts/kernel_resources.py --check    compiles what changed; fails where a kernel spills more than the table says

Needs nvcc and no GPU. What the host runs of the backend is compiled too, against the headers of the toolkit. The table names what each file was compiled from by a hash, so that only files with other sources,
or compiled by another release, are compiled again: all of them take about ten minutes on two cores."""
import argparse
import concurrent.futures
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TABLE = os.path.join(ROOT, "docs", "kernel_resources.md")
ARCHITECTURES = ("sm_80", "sm_90a")
HOST_FLAGS = ["-std=c++20", "-O0", "-DSFFN_HAS_CUDA=1"]
FLAGS = ["-std=c++20", "-O3", "--expt-relaxed-constexpr", "--extended-lambda", "-DSFFN_HAS_CUDA=1", "-Xptxas=-v"]
FLAGS += [f"-gencode=arch={name.replace('sm', 'compute')},code={name}" for name in ARCHITECTURES]
SCOPES = re.compile(r"sffn::|cuda::|\(anonymous namespace\)::|_INTERNAL_\w+::|_GLOBAL__N_\w*::")


def fail(text, code=1):
    print(f"error: {text}", file=sys.stderr)
    sys.exit(code)


def sources_of(path):
    """The file and every header of ours that it includes, transitively."""
    found, waiting = set(), [path]
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        found.add(file)
        with open(file) as text:
            for name in re.findall(r'^#include "([^"]+)"', text.read(), re.M):
                for folder in (ROOT, os.path.join(ROOT, "src")):
                    if os.path.exists(os.path.join(folder, name)):
                        waiting.append(os.path.join(folder, name))
    return sorted(found)


def fingerprint(path, release):
    digest = hashlib.sha256(" ".join([release, *FLAGS]).encode())
    for file in sources_of(path):
        with open(file, "rb") as text:
            digest.update(hashlib.sha256(text.read()).digest())
    return digest.hexdigest()[:16]


def compile_file(nvcc, path, flags):
    """What ptxas says of the file; from ccache where it was compiled before."""
    launcher = [shutil.which("ccache")] if shutil.which("ccache") else []
    with tempfile.TemporaryDirectory() as folder:
        result = subprocess.run([*launcher, nvcc, *flags, "-I", ROOT, "-I", os.path.join(ROOT, "src"), "-c", path, "-o",
                                 os.path.join(folder, "kernel.o")], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"{path} does not compile:\n{result.stdout}")
    return result.stdout


def parse(log):
    """{(kernel, architecture): (registers, shared, stack, spilled)}, with mangled names."""
    rows, name, architecture, frame = {}, "", "", (0, 0)
    for line in log.splitlines():
        if entry := re.search(r"Compiling entry function '(\w+)' for '(\w+)'", line):
            name, architecture, frame = *entry.groups(), (0, 0)
        elif properties := re.search(r"Function properties for (\w+)", line):
            of = properties.group(1)
        elif stack := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            if of == name:
                frame = (int(stack.group(1)), int(stack.group(2)) + int(stack.group(3)))
        elif used := re.search(r"Used (\d+) registers", line):
            shared = re.search(r"(\d+) bytes smem", line)
            rows[name, architecture] = (int(used.group(1)), int(shared.group(1)) if shared else 0, *frame)
    return rows


def readable(names):
    printed = subprocess.run(["c++filt"], input="\n".join(names), stdout=subprocess.PIPE, text=True, check=True).stdout
    short = {}
    for name, text in zip(names, printed.splitlines()):
        text, depth, end = SCOPES.sub("", text), 0, 0
        while end < len(text) and (depth > 0 or text[end] != "("):  # the arguments of a template may have their own ()
            depth += {"<": 1, ">": -1}.get(text[end], 0)
            end += 1
        short[name] = text[:end].removeprefix("void ")
    return short


def table_rows(file, parsed):
    """A line a kernel: what both architectures take, sm_80 first."""
    names = sorted({name for name, _ in parsed})
    short = readable(names) if names else {}
    lines = []
    for name in names:
        values = [parsed.get((name, architecture), ("-",) * 4) for architecture in ARCHITECTURES]
        columns = [f"{a} / {b}" if a != b else str(a) for a, b in zip(*values)]
        lines.append(f"| {file} | `{short[name]}` | {' | '.join(columns)} |")
    return sorted(lines)


def read_table():
    """Fingerprints and lines of the committed table, by file."""
    prints, lines = {}, {}
    if os.path.exists(TABLE):
        with open(TABLE) as text:
            for line in text:
                if match := re.match(r"\| (\S+\.cu) \| ([0-9a-f]{16}) \|$", line):
                    prints[match.group(1)] = match.group(2)
                elif match := re.match(r"\| (\S+\.cu) \| `", line):
                    lines.setdefault(match.group(1), []).append(line.rstrip("\n"))
    return prints, lines


def spilling(lines):
    """{(file, kernel): bytes by architecture} of the kernels that spill."""
    found = {}
    for line in lines:
        file, kernel, *_, spilled = line.strip("| ").split(" | ")
        numbers = [0 if number == "-" else int(number) for number in spilled.split(" / ")]
        if any(numbers):
            found[file, kernel] = numbers * (len(ARCHITECTURES) // len(numbers))
    return found


def more_spilled(now, table):
    """A line for each kernel that spills more on an architecture than the table says, or spills and is not in there."""
    allowed, found = spilling(table), []
    for (file, kernel), numbers in sorted(spilling(now).items()):
        for architecture, spilled, known in zip(ARCHITECTURES, numbers, allowed.get((file, kernel), (0, 0))):
            if spilled > known:
                found.append(f"{file} {kernel} spills {spilled} bytes a thread on {architecture}; in the table: {known}")
    return found


def write_table(release, prints, lines):
    head = ["# Resources of the CUDA kernels", "",
            f"What ptxas of CUDA {release} says for sm_80 / sm_90a, one number where both say the same; written by",
            "`scripts/kernel_resources.py`. Shared memory is the static part, in bytes; stack and spills are bytes a thread.", "",
            "| file | kernel | registers | shared | stack | spilled |", "|---|---|---|---|---|---|"]
    body = [line for file in sorted(lines) for line in lines[file]]
    tail = ["", "What each file was compiled from:", "", "| file | sources |", "|---|---|"]
    tail += [f"| {file} | {prints[file]} |" for file in sorted(prints)]
    os.makedirs(os.path.dirname(TABLE), exist_ok=True)
    with open(TABLE, "w") as text:
        text.write("\n".join(head + body + tail) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    if not os.access(nvcc, os.X_OK):
        print("no nvcc on this machine: kernels were not compiled for GPUs")
        return
    release = re.search(r"release ([\d.]+)", subprocess.run([nvcc, "--version"], stdout=subprocess.PIPE, text=True,
                                                            check=True).stdout).group(1)
    folder = os.path.join(ROOT, "kernels", "cuda")
    files = sorted(name for name in os.listdir(folder) if name.endswith(".cu"))
    prints = {name: fingerprint(os.path.join(folder, name), release) for name in files}
    known, table = read_table()
    stale = [name for name in files if known.get(name) != prints[name]]
    print(f"{len(files)} files, {len(files) - len(stale)} of them as in the table")
    lines = {name: table.get(name, []) for name in files if name not in stale}
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        hosts = [pool.submit(compile_file, nvcc, os.path.join(folder, name), HOST_FLAGS)
                 for name in sorted(os.listdir(folder)) if name.endswith(".cpp")]
        logs = {pool.submit(compile_file, nvcc, os.path.join(folder, name), FLAGS): name for name in stale}
        try:
            for host in hosts:
                host.result()
            for done, log in enumerate(concurrent.futures.as_completed(logs), 1):
                lines[logs[log]] = table_rows(logs[log], parse(log.result()))
                print(f"compiled {logs[log]}, {done} of {len(stale)}", flush=True)
        except RuntimeError as error:
            pool.shutdown(cancel_futures=True)
            fail(error)
    everything = [line for name in files for line in lines[name]]
    print(f"{len(everything)} kernels, {len(spilling(everything))} of them spill")
    if not options.check:
        write_table(release, prints, lines)
        print("wrote docs/kernel_resources.md")
        return
    more = more_spilled(everything, [line for name in table for line in table[name]])
    if more:
        fail("registers spill that docs/kernel_resources.md does not know of; kept as they are, scripts/kernel_resources.py "
             "writes them down:\n" + "\n".join(more))


if __name__ == "__main__":
    main()
