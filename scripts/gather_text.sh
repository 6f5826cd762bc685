#!/usr/bin/env bash
# Collects real text that is already on this machine, one .txt file a document.
#   scripts/gather_text.sh prose DIR MEGABYTES   manual pages (markup removed), then package documentation
#   scripts/gather_text.sh code  DIR MEGABYTES   C and C++ headers
set -euo pipefail
source "$(dirname "$0")/common.sh"

kind=${1:-} out=${2:-} megabytes=${3:-}
[[ $kind =~ ^(prose|code)$ && -n $out && $megabytes =~ ^[1-9][0-9]*$ ]] ||
  { code=2; die "scripts/gather_text.sh: usage: gather_text.sh prose|code DIR MEGABYTES"; }

limit=$((megabytes * 1000000)) total=0 documents=0
mkdir -p "$out"
rm -f "$out"/*.txt

plain_manual() { sed -e '/^[.'\'']\\"/d' -e 's/^\.\(SH\|SS\|TH\) */\n/' -e 's/^\.[A-Za-z]* *//' -e 's/\\f[A-Z0-9]//g; s/\\ / /g; s/\\-/-/g; s/\\&//g; s/\\(aq/'\''/g'; }

# take FILE FILTER: adds one document; fails once the limit is reached.
take() {
  local name=${1#/}
  name=${name//\//_}
  case $1 in *.gz) zcat -- "$1" ;; *) cat -- "$1" ;; esac 2>/dev/null | $2 >"$out/$name.txt"
  total=$((total + $(stat -c %s "$out/$name.txt")))
  documents=$((documents + 1))
  [ "$total" -lt "$limit" ]
}

# collect FILTER FIND-ARGUMENTS...: in a fixed scattered order, so that one machine always gives the same, mixed corpus.
collect() {
  local filter=$1 file
  shift
  while IFS= read -r file; do take "$file" "$filter" || return 0; done \
    < <(find "$@" -type f -size +1k -size -200k 2>/dev/null | LC_ALL=C sort | shuf --random-source=<(yes))
}

if [ "$kind" = prose ]; then
  collect plain_manual /usr/share/man/man[1-8] -name '*.gz'
  [ "$total" -ge "$limit" ] ||
    collect cat /usr/share/doc /usr/share/common-licenses \( -name copyright -o -name 'README*' -o -name 'NEWS*' -o -path '*common-licenses*' \)
else
  collect cat /usr/include -name '*.h'
fi
[ "$total" -gt 0 ] || die "scripts/gather_text.sh: no $kind found on this machine; give a folder of .txt files to \`sffn prepare --input\`"
say "gathered $documents documents, $((total / 1000)) kB of $kind in $out"
