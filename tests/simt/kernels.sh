#!/usr/bin/env bash
# Every kernel of kernels/cuda, in every type it is compiled for, is run by the tests of the ops.
#   kernels.sh TEST_OPS RECORD     RECORD: what they wrote to SFFN_SIMT_KERNELS. Prints the list with launches; fails
#                                  where a kernel was never launched
set -euo pipefail
program=$1 record=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Addresses count from run_grid, wherever the program is loaded.
nm -C "$program" | grep -E ' [tTwW] ' >"$work/symbols"
base=$(awk '/ simt::run_grid\(/ { print "0x" $1; exit }' "$work/symbols")
awk '/^[^<]*_kernel(<|\()/ && !/std::|simt::|launch<|\[clone|::operator\(\)|Profile::/' "$work/symbols" | while read -r address _ name; do
  echo "$((16#$address - base)) $name"
done | sort -u >"$work/kernels"
awk 'NR == FNR { launches[$1] += $2; next }
     { offset = $1; sub(/^[^ ]+ /, ""); never += !(offset in launches); count += 1
       printf "%10d  %s\n", launches[offset], $0 }
     END { printf "%d kernels, %d of them never run\n", count, never; exit never > 0 || count == 0 }' "$record" "$work/kernels"
