#!/bin/bash
# Makes a static library in which only some symbols can be seen: one object, linked from all of another library's, in which every
# other symbol is local. usage: hide_symbols.sh IN.a OUT.a PATTERN
#
#   LD, OBJCOPY, AR   instead of the programs of that name, when compiling for another machine
set -euo pipefail
in=$1 out=$2 pattern=$3
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${LD:-ld}" -r --whole-archive "$in" -o "$tmp/all.o"
"${OBJCOPY:-objcopy}" --wildcard --keep-global-symbol="$pattern" "$tmp/all.o" "$tmp/libsealane.o"
rm -f "$out"
"${AR:-ar}" rcsD "$out" "$tmp/libsealane.o"
