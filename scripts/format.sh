#!/usr/bin/env bash
# clang-format over every C++ and CUDA source; with --check it only lists what differs.
set -euo pipefail
cd "$(dirname "$0")/.."
mode=(-i)
case "${1:-}" in "") ;; --check) mode=(--dry-run --Werror) ;; *) echo "error: scripts/format.sh: unknown argument $1; known: --check" >&2; exit 2 ;; esac
git ls-files '*.h' '*.cpp' '*.cuh' '*.cu' | xargs clang-format "${mode[@]}"
