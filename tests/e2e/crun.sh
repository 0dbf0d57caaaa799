#!/bin/bash
# The same containers and the same hook under crun.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need crun
# crun refuses hybrid cgroups. In a mount namespace of our own we see cgroup2 alone; nothing outside changes.
if [ "$(stat -f -c %T /sys/fs/cgroup)" != cgroup2fs ] && [ -z "${E2E_CG2:-}" ]; then
	[ "$(id -u)" = 0 ] || skip "containers and namespaces need root"
	E2E_CG2=1 exec unshare --mount --propagation private sh -c '
		umount -R /sys/fs/cgroup 2>/dev/null
		while umount -l /sys/fs/cgroup 2>/dev/null; do :; done
		mount -t cgroup2 none /sys/fs/cgroup && exec "$0" "$@"' "$0" "$@"
fi
e2e_start

host_up <<'CONF'
workload cache { services = [ redis ] }
service redis { socket_path = "redis.sock" }
service web { upstream redis {} }
service intruder { upstream redis {} }
intention { source = web  destination = redis  action = allow }
CONF
# shellcheck disable=SC2034 # read by tools/containers.sh
CTR_RUNTIME=crun
if ! { ctr_bundle probe "$ROOTFS" "${CTR_USR[@]}" -- true && ctr_start probe; } then
	skip "crun starts no container on this machine: $(tail -1 "$CTR_DIR/probe/out")"
fi
redis_run cache
ctr_run web sleep 1d
ctr_run intruder sleep 1d
check_equal "crun: PING" PONG "$(redis_in web PING)"
check_not "crun: intruder is refused" redis_in intruder PING
check_equal "crun: enrolled by the hook" "hook hook hook" \
	"$(api /v1/workloads | jq -r '[.workloads[] | select(.state == "running") | .enrolled_by] | join(" ")')"
sl intention allow intruder redis --strict >/dev/null
check_equal "crun: and through the relay" "relay PONG" "$(route_of intruder redis) $(redis_in intruder PING)"
