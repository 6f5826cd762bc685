#!/usr/bin/env bash
# Installs what is missing, builds everything and runs the test suite. Before ctest's summary of a simt preset stands the list
# of the CUDA kernels that the tests ran (tests/simt/kernels.sh).
#   scripts/test.sh          the tests that every change must pass (label core)
#   scripts/test.sh --cpu    those of the CPU backend alone
#   scripts/test.sh --simt   the CUDA backend alone, on this CPU under the SIMT executor, and again under both sanitizers
#   scripts/test.sh --all    all of them, those labelled long too: more schedules and shapes under the sanitizers
set -euo pipefail
source "$(dirname "$0")/common.sh"

presets=(cpu simt-asan simt-tsan simt) labels=(-L core)
case "${1:-}" in
  "") ;;
  --cpu) presets=(cpu) ;;
  --simt) presets=(simt-asan simt-tsan simt) ;;
  --all) labels=() ;;
  *) code=2; die "scripts/test.sh: unknown argument $1; known: --cpu, --simt, --all" ;;
esac

# ctest's output with the file, where the tests wrote it, before the summary.
with_list() {
  local line
  while IFS= read -r line; do
    case $line in *"% tests passed"*) [ ! -e "$1" ] || { cat "$1"; say; } ;; esac
    say "$line"
  done
}

install_packages
case " ${presets[*]} " in *simt*) python3 "$root/scripts/kernel_resources.py" --check ;; esac  # where there is nvcc
for preset in "${presets[@]}"; do
  case $preset in cpu) target=all ;; *) target=device_tests ;; esac
  build "$preset" "$target"
  kernels=$root/build-$preset/kernels_that_ran.short
  rm -f "$kernels"
  ctest --test-dir "$root/build-$preset" ${labels[@]+"${labels[@]}"} -j "$(nproc)" --output-on-failure --timeout 600 |
    with_list "$kernels"
done
