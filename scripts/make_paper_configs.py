#!/usr/bin/env python3
"""Writes configs/paper: the 24-layer set-ups of arXiv 2305.13999 (section 4 and its tables), one file each.

    scripts/make_paper_configs.py            writes them
    scripts/make_paper_configs.py --check    exits 1 naming the first file that differs from what would be written

E is the expansion of a sparse layer's memory, g its block size; every 6th layer is sparse, and a token uses as many cells
as the dense layer has. The data paths are to be replaced: --set 'data.train=[{"path": "…"}]'.
"""
import argparse
import json
import pathlib
import sys

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "configs" / "paper"
D_FF = 4096
EXPANSIONS = (4, 16, 32)
BLOCK_SIZES = (1, 64, 256, 1024, 2048, 4096)


def config(name, entry):
    model = {
        "backbone": "gpt", "vocab_size": 51200, "context": 2048, "layers": 24, "d_model": 1024, "heads": 16,
        "positions": "sinusoidal", "ffn": {"type": "dense", "d_ff": D_FF, "activation": "relu"},
    }
    if entry:
        model["sparse_ffn"] = [{"layers": {"every": 6}, **entry}]
    return {
        "name": name,
        "model": model,
        "data": {"train": [{"path": "data/paper/train-*.bin"}], "validation": {"in": "data/paper/val-*.bin"}},
        "optimizer": {
            "lr": 3e-4, "betas": [0.9, 0.98], "eps": 1e-8, "weight_decay": 0.01, "clip": 1.0,
            "schedule": {"type": "linear", "warmup_steps": 715, "final_lr": 0},
        },
        "train": {"steps": 114441, "tokens_per_step": 524288, "micro_batch": 4, "precision": "bf16", "seed": 1},
        "evaluation": {"every": 1000, "tokens": 1048576},
        "checkpoint": {"every": 2000, "keep": 3, "keep_every": 20000},
    }


def half_keys(cells):
    """Two factors of a power of two, equal or one twice the other."""
    first = 1
    while first * first * 4 <= cells:
        first *= 2
    return [first, cells // first]


def entries():
    yield "dense", None
    for expansion in EXPANSIONS:
        memory = {"expansion": expansion, "active_cells": D_FF}
        for method in ("avg_k", "vanilla_m", "rand_hash"):
            for g in BLOCK_SIZES:
                yield f"{method}-e{expansion}-g{g}", {"type": method, "block_size": g, **memory}
        yield f"switch-e{expansion}", {"type": "switch", "block_size": D_FF, **memory}
        yield f"lorkm-e{expansion}", {"type": "lorkm", "key_rank": 128, **memory}
        cells = half_keys(expansion * D_FF)
        yield f"pkm-e{expansion}", {"type": "pkm_ffn", "half_keys": cells, "query_dim": 1024, "heads": 1, **memory}


def text_of(name, entry):
    return json.dumps(config(name, entry), indent=2) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare only")
    check = parser.parse_args().check
    wanted = {f"{name}.json": text_of(name, entry) for name, entry in entries()}
    FOLDER.mkdir(parents=True, exist_ok=True)
    for file in sorted(FOLDER.glob("*.json")):
        if file.name not in wanted:
            if check:
                sys.exit(f"error: {file}: is not one of the set-ups")
            file.unlink()
    for name, text in wanted.items():
        file = FOLDER / name
        if check and (not file.exists() or file.read_text() != text):
            sys.exit(f"error: {file}: differs from what {pathlib.Path(__file__).name} writes")
        if not check:
            file.write_text(text)
    print(f"{len(wanted)} set-ups in {FOLDER}{' as written' if check else ''}")


if __name__ == "__main__":
    main()
