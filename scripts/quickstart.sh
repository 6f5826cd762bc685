#!/usr/bin/env bash
# From a fresh machine to a trained model in minutes: installs what is missing, builds, prepares real text found here,
# trains a small transformer on two ranks, evaluates it on held-out text and writes a sample.
#   scripts/quickstart.sh [--steps N] [--run DIR]      defaults: the steps of configs/quickstart.json, runs/quickstart
set -euo pipefail
source "$(dirname "$0")/common.sh"

steps=() run=runs/quickstart
while [ $# -gt 0 ]; do
  case $1 in
    --steps) steps=(--steps "${2:?}"); shift 2 ;;
    --run) run=${2:?}; shift 2 ;;
    *) code=2; die "scripts/quickstart.sh: unknown argument $1; known: --steps N, --run DIR" ;;
  esac
done

cd "$root"
sffn=build-cpu/tools/sffn data=data/quickstart
started=$SECONDS

say "1/5 packages and build"
install_packages
build cpu sffn

say "2/5 text from this machine"
if [ ! -e "$data/prose/manifest.json" ] || [ ! -e "$data/code/manifest.json" ]; then
  scripts/gather_text.sh prose "$data/text/prose" 5
  scripts/gather_text.sh code "$data/text/code" 1
fi
"$sffn" prepare --input "$data/text/prose" --out "$data/prose" --tokenizer bytes --val-fraction 0.05
"$sffn" prepare --input "$data/text/code" --out "$data/code" --tokenizer bytes --val-fraction 0.5

say "3/5 training on 2 ranks"
launch 2 "$sffn" train configs/quickstart.json --run "$run" ${steps[@]+"${steps[@]}"}

say "4/5 evaluation on held-out text"
launch 2 "$sffn" eval --checkpoint "$run" --data "prose=$data/prose/val-*.bin" --data "code=$data/code/val-*.bin"

say "5/5 a sample"
"$sffn" generate --checkpoint "$run" --prompt "The command " --tokens 200 --temperature 0.8 --seed 1

say
say "done in $((SECONDS - started)) s. The run is in $run: metrics.jsonl, tensorboard/, checkpoints/, log.txt."
say "Train on: mpirun -np 2 $sffn train configs/quickstart.json --run $run --steps 2000"
say "It resumes from the newest checkpoint by itself; stop a run with kill -USR1 to the mpirun process: it saves first."
