#!/usr/bin/env python3
"""Every kernel of kernels/cuda, in every type it is compiled for, is run by the tests of the ops: see kernels.sh.

The kernels are the symbols of the program whose function has the name of a __global__ function of the sources."""
import glob
import os
import re
import subprocess
import sys

SOURCES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "kernels", "cuda", "*.cu*")
WIDTH = 126
OPEN, CLOSE = "(<[{", ")>]}"


def after_parentheses(text, begin):
    """Where the parentheses that open at `begin` have closed."""
    depth = 0
    for i in range(begin, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i + 1
    return len(text)


def global_functions(text):
    """The names of the __global__ functions in a source."""
    text = re.sub(r"//[^\n]*|/\*.*?\*/", " ", text, flags=re.S)
    names = set()
    for begin in (found.end() for found in re.finditer(r"\b__global__\b", text)):
        while found := re.compile(r"[^;{}()]*?(\w+)\s*\(").match(text, begin):
            if not found[1].startswith("__"):  # else __launch_bounds__(…) and the like
                names.add(found[1])
                break
            begin = after_parentheses(text, found.end() - 1)
    return names


def function_of(symbol):
    """The unqualified name of the function that a demangled symbol is, or None where it is something within one, a part that
    the compiler cut off, or no function."""
    text = symbol.replace("(anonymous namespace)", "anonymous")
    text = re.sub(r"operator(<=>|<<=?|>>=?|->\*?|\(\)|[<>]=?)", "operator_", text)
    depth, outer = 0, ""
    for i, letter in enumerate(text):
        if letter in CLOSE and text[i - 1:i + 1] != "->":
            depth -= 1
        if depth == 0 and letter not in CLOSE:
            outer += letter
        if letter in OPEN:
            depth += 1
    found = re.fullmatch(r"(?:.* )?(?:\w+(?:\[)?::)*(\w+)<?\(", outer.strip())
    return found[1] if found else None


def kernels_of(symbols, names):
    """[(address, demangled symbol)] of the kernels with these names, and the address of simt::run_grid."""
    kernels, base = set(), None
    for line in symbols.splitlines():
        found = re.match(r"([0-9a-f]+) [tTwW] (.*)", line)
        if not found:
            continue
        name = function_of(found[2])
        if found[2].startswith("simt::run_grid(") and name == "run_grid":
            base = int(found[1], 16)
        elif name in names:
            kernels.add((int(found[1], 16), found[2]))
    return sorted(kernels, key=lambda kernel: kernel[1]), base


def columns(words):
    width = max(map(len, words)) + 2
    across = max(1, WIDTH // width)
    down = -(-len(words) // across)
    return ["".join(word.ljust(width) for word in words[i::down]).rstrip() for i in range(down)]


def short_list(kernels, launches):
    """Names with the number of types that each is compiled for, in columns; the sum of launches is left to the long list."""
    types, never = {}, set()
    for (_, symbol), count in zip(kernels, launches):
        name = function_of(symbol)
        types[name] = types.get(name, 0) + 1
        if count == 0:
            never.add(name)
    return columns([f"{name} x{count}" + (" NOT ALL RUN" if name in never else "") for name, count in sorted(types.items())])


def main(program, record):
    names = set()
    for path in glob.glob(SOURCES):
        with open(path) as file:
            names |= global_functions(file.read())
    symbols = subprocess.run(["nm", "-C", program], stdout=subprocess.PIPE, text=True, check=True).stdout
    kernels, base = kernels_of(symbols, names)
    ran = {}
    with open(record) as file:
        for line in file:
            offset, count = map(int, line.split())
            ran[offset] = ran.get(offset, 0) + count
    launches = [ran.get(address - (base or 0), 0) for address, _ in kernels]
    absent = sorted(names - {function_of(symbol) for _, symbol in kernels})
    never = launches.count(0)
    head = f"{len(kernels)} kernels of {len(names)} __global__ functions, {never} of them never run"
    listed = [f"{count:10}  {symbol}" for (_, symbol), count in zip(kernels, launches)]
    listed += [f"not in the program: {name}" for name in absent]
    print("\n".join([*listed, head]))
    with open(record + ".list", "w") as file:
        file.write("\n".join([head, *listed]) + "\n")
    with open(record + ".short", "w") as file:
        file.write("\n".join([f"{head}; types and launches: {record}.list", *(short_list(kernels, launches) if kernels else []),
                              *listed[len(kernels):]]) + "\n")
    return 1 if base is None or not kernels or never or absent else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
