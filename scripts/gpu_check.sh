#!/usr/bin/env bash
# Everything there is to see on a machine with a GPU, in under ten minutes: the tests of the CUDA backend, the op tests
# under compute-sanitizer, the CPU and the GPU in lockstep, and the benchmarks, PyTorch beside them where it is installed.
#   scripts/gpu_check.sh [--build DIR] [--out DIR] [--seconds N] [--slots NAME,…] [--peers FILE] [--commit REV] [--list]
# --build     a build of the preset cuda made elsewhere, with the same CUDA major version: the usual way where a card is lent
#             for minutes. Else it is built here, first, and that time counts
# --out       default docs/benchmarks/DATE-CARD, or DATE-CARD-2 and so on: result.json and README.md, written again as each
#             slot ends
# --seconds   590, from the start of this script: what has not begun by then is left out, and what runs then is cut short
# --slots     only these, NAME=SECONDS with another limit; --list names them and their limits
# --peers     commands of other programs (tools/bench/peers.py)
# --commit    what was checked, where this folder is no work tree of git or an old one; else git's HEAD, marked if changed
# Exit code 0 where every slot that ran is good (those left out are named), 1 where one is not or none ran, 2 for usage and
# without a GPU.
set -euo pipefail
SECONDS=0
source "$(dirname "$0")/common.sh"
code=2
command -v python3 >/dev/null || die "scripts/gpu_check.sh: there is no python3 on this machine"
args=("$@") build_dir="" list=false
while [ $# -gt 0 ]; do
  case $1 in
    --list) list=true; shift; continue ;;
    --build | --out | --seconds | --slots | --peers | --commit) ;;
    *) die "scripts/gpu_check.sh: unknown argument $1; known: --build, --out, --seconds, --slots, --peers, --commit, --list" ;;
  esac
  case ${2:-} in "" | --*) die "scripts/gpu_check.sh: $1 needs a value" ;; esac
  [ "$1" != --build ] || build_dir=$2
  shift 2
done
$list && exec python3 "$root/scripts/gpu_check.py" --list
[ "$(count_gpus)" -gt 0 ] ||
  die "scripts/gpu_check.sh: nvidia-smi finds no GPU on this machine; --build DIR takes a build made elsewhere to one that has it"
code=1
if [ -z "$build_dir" ]; then
  install_packages
  build cuda sffn device_tests
  say "the build took $SECONDS s, which count; --build $root/build-cuda spares them the next time"
  args+=(--build "$root/build-cuda")
fi
cd "$root"
exec python3 scripts/gpu_check.py "${args[@]}" --spent "$SECONDS"
