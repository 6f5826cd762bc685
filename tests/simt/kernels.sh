#!/usr/bin/env bash
# Every kernel of kernels/cuda, in every type it is compiled for, is run by the tests of the ops.
#   kernels.sh TEST_OPS RECORD     RECORD: what they wrote to SFFN_SIMT_KERNELS. Prints the list with launches; fails
#                                  where a kernel was never launched, or is not in the program. The list is kept in
#                                  RECORD.list, and in RECORD.short without types, as scripts/test.sh prints it
set -euo pipefail
exec python3 "$(dirname "$0")/kernels.py" "$@"
