#!/usr/bin/env bash
# From a fresh machine to a trained sparse model in minutes: installs what is missing, builds, prepares real text found
# here, trains a small Avg-K model and a dense one of equal FLOPs on two ranks each, and compares them on held-out text.
# Where a GPU is visible the CUDA backend is built and used, on one rank a GPU.
#   scripts/quickstart.sh [--steps N] [--run DIR]      defaults: the steps of configs/quickstart.json, runs/quickstart
set -euo pipefail
source "$(dirname "$0")/common.sh"

steps=() run=runs/quickstart
while [ $# -gt 0 ]; do
  case $1 in --steps | --run) [ -n "${2:-}" ] || { code=2; die "scripts/quickstart.sh: $1 needs a value"; } ;; esac
  case $1 in
    --steps) steps=(--steps "$2"); shift 2 ;;
    --run) run=$2; shift 2 ;;
    *) code=2; die "scripts/quickstart.sh: unknown argument $1; known: --steps N, --run DIR" ;;
  esac
done

cd "$root"
preset=cpu ranks=2 data=data/quickstart
started=$SECONDS

gpus=$(count_gpus)
if [ "$gpus" -gt 0 ]; then
  export PATH="$PATH:${CUDA_HOME:-/usr/local/cuda}/bin"
  if command -v nvcc >/dev/null; then
    preset=cuda ranks=$((gpus < 2 ? gpus : 2))
  else
    say "a GPU is visible, but no CUDA toolkit (nvcc) to build for it: on the CPU"
  fi
fi
sffn=build-$preset/tools/sffn

say "1/6 packages and build, preset $preset"
install_packages
build "$preset" sffn

say "2/6 text from this machine"
if [ ! -e "$data/prose/manifest.json" ] || [ ! -e "$data/code/manifest.json" ]; then
  scripts/gather_text.sh prose "$data/text/prose" 5
  scripts/gather_text.sh code "$data/text/code" 1
fi
"$sffn" prepare --input "$data/text/prose" --out "$data/prose" --tokenizer bytes --val-fraction 0.05
"$sffn" prepare --input "$data/text/code" --out "$data/code" --tokenizer bytes --val-fraction 0.2

say "3/6 training, ranks: $ranks; Avg-K, 8 times the memory in every second layer"
launch "$ranks" "$sffn" train configs/quickstart.json --run "$run" ${steps[@]+"${steps[@]}"}

say "4/6 the dense baseline of equal FLOPs"
launch "$ranks" "$sffn" train configs/quickstart-dense.json --run "$run-dense" ${steps[@]+"${steps[@]}"}

say "5/6 evaluation on held-out text"
for model in "$run" "$run-dense"; do
  say "$model:"
  launch "$ranks" "$sffn" eval --checkpoint "$model" --data "prose=$data/prose/val-*.bin" --data "code=$data/code/val-*.bin"
done

say "6/6 a sample of the Avg-K model"
"$sffn" generate --checkpoint "$run" --prompt "The command " --tokens 200 --temperature 0.8 --seed 1

say
say "done in $((SECONDS - started)) s. The runs are in $run and $run-dense: metrics.jsonl, tensorboard/, checkpoints/, log.txt."
say "Train on: mpirun -np $ranks $sffn train configs/quickstart.json --run $run --steps 2000"
say "It resumes from the newest checkpoint by itself; stop a run with kill -USR1 to the mpirun process: it saves first."
