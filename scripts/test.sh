#!/usr/bin/env bash
# Installs what is missing, builds everything and runs the test suite.
#   scripts/test.sh          the tests that every change must pass (label core)
#   scripts/test.sh --all    those labelled long as well, and the CUDA kernels under the SIMT executor
set -euo pipefail
source "$(dirname "$0")/common.sh"

labels=(-L core) presets=()
case "${1:-}" in
  "") ;;
  --all) labels=() presets=(simt simt-asan simt-tsan) ;;
  *) code=2; die "scripts/test.sh: unknown argument $1; known: --all" ;;
esac

run_tests() {
  ctest --test-dir "$root/build-$1" ${labels[@]+"${labels[@]}"} -j "$(nproc)" --output-on-failure --timeout 600
}

install_packages
# The CUDA kernels on a CPU, plain and under the sanitizers: accesses out of bounds, races.
for preset in ${presets[@]+"${presets[@]}"}; do
  say "$preset"
  build "$preset" device_tests
  run_tests "$preset"
done
say "cpu"
build cpu all
run_tests cpu
