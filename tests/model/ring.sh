#!/bin/bash
# docs/design/ring.pml, searched to the end by spin: as it is, it must hold; broken in each of the ways it names, it must fail.
# usage: ring.sh SOURCE-ROOT
set -euo pipefail
model=$(realpath "$1")/docs/design/ring.pml
for tool in spin gcc; do
	command -v "$tool" >/dev/null || { echo "skip: $tool is not installed (tools/install-deps.sh test)"; exit 77; }
done
dir=$(mktemp -d "${TMPDIR:-/tmp}/sealane-model.XXXXXX")
trap 'rm -rf "$dir"' EXIT
cd "$dir"

# search DEFINES... - what pan says goes to "said"
search() {
	spin "$@" -a "$model" >said 2>&1 && gcc -O2 -DSAFETY -DCOLLAPSE -DMEMLIM=1500 -o pan pan.c >>said 2>&1 ||
		{ cat said; echo "not ok: spin or gcc does not take the model"; exit 1; }
	./pan -m100000 >said 2>&1 || true
}

for ring in "-DN=4 -DCAP=2 -DHOLD=1" "-DN=4 -DCAP=3 -DHOLD=2"; do
	# shellcheck disable=SC2086 # words
	search $ring
	# A search that ran out of memory or depth says so, and has seen less than everything.
	if ! grep -q 'errors: 0' said || grep -Eq 'Search not completed|max search depth too small|out of memory' said; then
		cat said
		echo "not ok: $ring"
		exit 1
	fi
	echo "ok: $ring: $(grep -o '[0-9.e+]* states, stored' said)"
done

mapfile -t variants < <(grep -o -- '-DBROKEN_[A-Z]*' "$model" | sort -u)
for broken in "${variants[@]}"; do
	search -DN=4 -DCAP=2 -DHOLD=1 "$broken"
	fault=$(grep -E '^pan:1: (assertion violated|invalid end state)' said) || { cat said; echo "not ok: with $broken nothing goes wrong in the model"; exit 1; }
	echo "ok: with $broken it fails: ${fault#pan:1: }"
done
[ "${#variants[@]}" -ge 7 ] || { echo "not ok: only ${#variants[@]} broken variants are named in $model"; exit 1; }
