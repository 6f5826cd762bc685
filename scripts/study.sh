#!/usr/bin/env bash
# A first study: methods at equal tokens and seeds, validation perplexity against training FLOPs, on the text of the
# quickstart (run scripts/quickstart.sh first). Every second layer of 4 is sparse, with 8 times the dense layer's memory
# and as many active cells as the dense layer has.
#   scripts/study.sh [--steps N] [--seeds "1 2 3"] [--out DIR]     defaults: 250, "1 2 3", docs/study
# Finished runs in runs/study are not repeated. Writes OUT/table.md and OUT/perplexity.svg.
set -euo pipefail
source "$(dirname "$0")/common.sh"

steps=250 seeds="1 2 3" out=docs/study
while [ $# -gt 0 ]; do
  case $1 in
    --steps) steps=${2:?}; shift 2 ;;
    --seeds) seeds=${2:?}; shift 2 ;;
    --out) out=${2:?}; shift 2 ;;
    *) code=2; die "scripts/study.sh: unknown argument $1; known: --steps N, --seeds \"1 2 3\", --out DIR" ;;
  esac
done

cd "$root"
sffn=build-cpu/tools/sffn
[ -x "$sffn" ] && [ -e data/quickstart/prose/manifest.json ] || die "run scripts/quickstart.sh first: it builds and prepares the text"
packages=(python3)
install_packages

memory='"layers": {"every": 2}, "expansion": 8, "active_cells": 512'
methods=(
  "dense|[]"
  "rand_hash g=64|[{$memory, \"type\": \"rand_hash\", \"block_size\": 64}]"
  "switch g=512|[{$memory, \"type\": \"switch\", \"block_size\": 512}]"
  "vanilla_m g=1|[{$memory, \"type\": \"vanilla_m\", \"block_size\": 1}]"
  "avg_k g=64|[{$memory, \"type\": \"avg_k\", \"block_size\": 64}]"
  "avg_k g=8|[{$memory, \"type\": \"avg_k\", \"block_size\": 8}]"
)
total=$((${#methods[@]} * $(wc -w <<<"$seeds"))) number=0
for seed in $seeds; do
  for method in "${methods[@]}"; do
    name=${method%%|*} number=$((number + 1))
    run="runs/study/${name// /-}-seed$seed-steps$steps"
    say "$number/$total $name, seed $seed"
    if grep -qs '"end":"done"' "$run/metrics.jsonl"; then continue; fi
    launch 2 "$sffn" train configs/study.json --run "$run" --steps "$steps" --set train.seed="$seed" \
      --set "name=$name" --set "model.sparse_ffn=${method#*|}" | grep -E "^step $steps[ /]" || die "$run failed; see $run/log.txt"
    "$sffn" plan "$run/config.json" --json >"$run/plan.json"
  done
done
python3 scripts/study.py --runs runs/study --steps "$steps" --out "$out"
