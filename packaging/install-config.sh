#!/bin/sh
# Install the example configuration where there is none yet.
set -eu
to="${DESTDIR:-}/etc/sealane/sealane.conf"
[ -e "$to" ] || install -D -m 0644 "$1" "$to"
mkdir -p "${DESTDIR:-}/etc/sealane/conf.d"
