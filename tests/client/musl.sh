#!/bin/bash
# The library with musl instead of glibc, as somebody would build it for a small container image: shared and static, and a
# static program over it runs. usage: musl.sh SOURCE-ROOT; exit status 77: there is no musl-gcc.
set -euo pipefail
root=$1
command -v musl-gcc >/dev/null || { echo "musl-gcc is not installed (Debian: musl-tools)"; exit 77; }
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
quietly() { "$@" >"$tmp/log" 2>&1 || { tail -30 "$tmp/log"; exit 1; }; }

quietly env CC=musl-gcc meson setup "$tmp/build" "$root" -Donly_library=true -Dman=disabled -Dwerror=true
quietly meson compile -C "$tmp/build"
smoke=$tmp/build/tests/client/smoke_static
if readelf -dW "$smoke" | grep NEEDED; then
	echo "$smoke is not static"
	exit 1
fi
"$smoke"
# That one is static; this one loads musl's libc.so. And what the library shows and needs is the same as with glibc.
quietly meson test -C "$tmp/build" --no-rebuild lane-smoke lane-library
echo "the same with musl's shared libc; libsealane.so needs nothing else"
