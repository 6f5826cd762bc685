#!/usr/bin/env bash
# Installs what is missing, builds everything and runs the test suite.
#   scripts/test.sh          the tests that every change must pass (label core)
#   scripts/test.sh --all    those labelled long as well
set -euo pipefail
source "$(dirname "$0")/common.sh"

labels=(-L core)
case "${1:-}" in
  "") ;;
  --all) labels=() ;;
  *) code=2; die "scripts/test.sh: unknown argument $1; known: --all" ;;
esac

install_packages
build cpu all
ctest --test-dir "$root/build-cpu" ${labels[@]+"${labels[@]}"} -j "$(nproc)" --output-on-failure --timeout 600
