# Shared by the scripts beside it: packages, build, mpirun. Source it; it needs bash and `set -euo pipefail`.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# What the build and the tests need, from the distribution's own archive.
packages=(g++ cmake ninja-build pkg-config ccache openmpi-bin libopenmpi-dev libdnnl-dev nlohmann-json3-dev
          libspdlog-dev libcli11-dev catch2 libsentencepiece-dev libxxhash-dev libzstd-dev zlib1g-dev strace python3)

say() { printf '%s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit "${code:-1}"; }

# Installs what is missing; asks the network only then.
install_packages() {
  command -v dpkg-query >/dev/null || die "packages: this is not a Debian or Ubuntu system; install by hand: ${packages[*]}"
  local missing=() package
  for package in "${packages[@]}"; do
    dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return
  say "installing ${missing[*]}"
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || die "packages: not root and no sudo; ask an administrator to install: ${missing[*]}"
    as_root=(sudo)
  fi
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# How many GPUs the driver shows.
count_gpus() {
  if command -v nvidia-smi >/dev/null; then nvidia-smi -L 2>/dev/null | grep -c '^GPU ' || true; else echo 0; fi
}

# build PRESET TARGET...
build() {
  local preset=$1 log target
  shift
  log=$(mktemp)
  (cd "$root" && cmake --preset "$preset") >"$log" 2>&1 || { cat "$log" >&2; die "cmake --preset $preset failed"; }
  rm -f "$log"
  for target in "$@"; do cmake --build "$root/build-$preset" --target "$target"; done
}

# mpirun that works as root, in containers and with more ranks than cores; after TERM the ranks have 60 s to save
# (Open MPI 5 gives them one second: stop a run with USR1).
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
launch() {
  local ranks=$1
  shift
  mpirun -np "$ranks" --bind-to none --oversubscribe --mca odls_base_sigkill_timeout 60 "$@"
}
