#!/bin/bash
# Every shell script of the project goes through shellcheck. usage: check_shell.sh SOURCE-ROOT; exit status 77: no shellcheck here.
set -euo pipefail
cd "$1"
command -v shellcheck >/dev/null || { echo "shellcheck is not installed"; exit 77; }

files() {
	git -c safe.directory="$PWD" ls-files 2>/dev/null ||
		find . -type f -not -path './.*/*' -not -path './build*' -printf '%P\n'
}

scripts=()
while read -r f; do
	[ -f "$f" ] || continue
	if head -c 200 "$f" | head -1 | tr -d '\0' | grep -qE '^#!/bin/(ba)?sh|^# shellcheck shell='; then
		scripts+=("$f")
	fi
done < <(files)
bad=0
shellcheck "${scripts[@]}" || bad=1
for s in "${scripts[@]}"; do
	# Sourced files take the options of who sources them.
	if head -1 "$s" | grep -q '^#!/bin/bash' && ! grep -q '^set -euo pipefail' "$s"; then
		echo "$s: set -euo pipefail is missing"
		bad=1
	fi
done
echo "${#scripts[@]} scripts"
exit $bad
