#!/usr/bin/env bash
# Registers, shared memory and spills of every CUDA kernel, as ptxas tells them, for sm_80 and sm_90a. Needs nvcc, no GPU.
#   scripts/kernel_resources.sh            writes docs/kernel_resources.md
#   scripts/kernel_resources.sh --check    fails where a kernel spills that does not in the committed table
# What was compiled stays in build-resources: a file is compiled again when it or a header is newer, so that a run that was
# stopped goes on.
set -euo pipefail
source "$(dirname "$0")/common.sh"

check=false
case "${1:-}" in
  "") ;;
  --check) check=true ;;
  *) code=2; die "scripts/kernel_resources.sh: unknown argument $1; known: --check" ;;
esac
nvcc=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)
[ -x "$nvcc" ] || { say "no nvcc on this machine: kernels were not compiled for GPUs"; exit 0; }

cd "$root"
table=docs/kernel_resources.md work=$root/build-resources
$check && [ ! -e "$table" ] && die "$table is missing: scripts/kernel_resources.sh writes it"
mkdir -p "$work/include"
ln -sfn "$root/src/core" "$work/include/core"
ln -sfn "$root/kernels" "$work/include/kernels"
compile() {
  local log
  log=$2/$(basename "$3").log
  "$1" -std=c++20 -O3 --expt-relaxed-constexpr --extended-lambda -DSFFN_HAS_CUDA=1 -Xcompiler=-Wall,-Wextra -Xptxas=-v \
    -gencode=arch=compute_80,code=sm_80 -gencode=arch=compute_90a,code=sm_90a -I "$2/include" -c "$3" \
    -o "$2/kernel.$$.o" 2>"$log.new" || { cat "$log.new" >&2; return 1; }
  rm -f "$2/kernel.$$.o"
  mv "$log.new" "$log"
  echo "compiled $3"
}
export -f compile
newest_header=$(find kernels src/core -name '*.h' -o -name '*.cuh' | xargs ls -t | head -1)
stale=()
for file in kernels/cuda/*.cu; do
  log=$work/$(basename "$file").log
  [ "$log" -nt "$file" ] && [ "$log" -nt "$newest_header" ] || stale+=("$file")
done
for log in "$work"/*.log; do
  [ -e "kernels/cuda/$(basename "$log" .log)" ] || rm -f "$log"
done
if [ ${#stale[@]} -gt 0 ]; then
  printf '%s\n' "${stale[@]}" | nice xargs -P "$(nproc)" -I{} bash -c 'compile "$0" "$1" "$2"' "$nvcc" "$work" {}
fi

# "Compiling entry function 'NAME' for 'sm_80'", then stack and spills of NAME, then "Used N registers, …, M bytes smem".
for log in "$work"/*.log; do
  file=$(basename "$log" .cu.log)
  awk -v file="$file" '
    /Compiling entry function/ { split($0, part, "\047"); name = part[2]; arch = part[4] }
    /Function properties for/ { of = $NF }
    /bytes stack frame/ && of == name { stack = $1; stores = $5; loads = $9 }
    /Used [0-9]+ registers/ {
      match($0, /Used [0-9]+/); registers = substr($0, RSTART + 5, RLENGTH - 5)
      shared = match($0, /[0-9]+ bytes smem/) ? substr($0, RSTART, RLENGTH - 11) : 0
      print file, name, arch, registers, shared, stack, stores + loads
    }' "$log"
done | c++filt -p | sed -E 's/sffn::cuda::\(anonymous namespace\):://g; s/_INTERNAL_[a-z0-9_]+:://g' | sort >"$work/rows"

{
  echo "# Resources of the CUDA kernels"
  echo
  echo "What ptxas of $("$nvcc" --version | sed -n 's/.*\(release [0-9.]*\).*/CUDA \1/p') says; written by \`scripts/kernel_resources.sh\`. Dynamic shared memory is not in it."
  echo
  echo "| file | kernel | architecture | registers | shared, bytes | stack, bytes | spilled, bytes |"
  echo "|---|---|---|---|---|---|---|"
  awk '{ file = $1; n = NF; kernel = $2; for (i = 3; i <= n - 5; ++i) kernel = kernel " " $i
         printf "| %s | `%s` | %s | %s | %s | %s | %s |\n", file, kernel, $(n-4), $(n-3), $(n-2), $(n-1), $n }' "$work/rows"
} >"$work/table.md"
say "$(wc -l <"$work/rows") kernels"

if $check; then
  grep -vE '\| 0 \|$' "$work/table.md" | grep -E '^\| [a-z]' | cut -d'|' -f2-4 | sort >"$work/spills" || true
  grep -vE '\| 0 \|$' "$table" | grep -E '^\| [a-z]' | cut -d'|' -f2-4 | sort >"$work/known" || true
  new=$(comm -23 "$work/spills" "$work/known")
  [ -z "$new" ] || die "kernels that spill registers and are not in $table:"$'\n'"$new"
  say "no spill that is not in $table"
else
  cp "$work/table.md" "$table"
  say "wrote $table"
fi
