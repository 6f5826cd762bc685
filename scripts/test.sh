#!/usr/bin/env bash
# Installs what is missing, builds everything and runs the test suite.
#   scripts/test.sh          the tests that every change must pass (label core)
#   scripts/test.sh --all    those labelled long as well
#   scripts/test.sh --simt   the CUDA kernels on this CPU, under the SIMT executor: plain, and under the sanitizers
set -euo pipefail
source "$(dirname "$0")/common.sh"

presets=(cpu) labels=(-L core) target=all
case "${1:-}" in
  "") ;;
  --all) labels=() ;;
  --simt) presets=(simt simt-asan simt-tsan) target=device_tests ;;
  *) code=2; die "scripts/test.sh: unknown argument $1; known: --all, --simt" ;;
esac

install_packages
for preset in "${presets[@]}"; do
  build "$preset" "$target"
  ctest --test-dir "$root/build-$preset" ${labels[@]+"${labels[@]}"} -j "$(nproc)" --output-on-failure --timeout 600
done
