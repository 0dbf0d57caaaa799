#!/bin/bash
# podman with the CDI device that the daemon writes: default seccomp, no capabilities, read-only root, no network.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need podman
# podman 4 reads CDI files from /etc/cdi and /run/cdi only, and the CDI file names the installed command line. In a mount
# namespace of our own /run and /usr/local/bin are ours.
if [ -z "${E2E_RUN:-}" ]; then
	[ "$(id -u)" = 0 ] || skip "containers and namespaces need root"
	E2E_RUN=1 exec unshare --mount --propagation private sh -c \
		'mount -t tmpfs tmpfs /run && mkdir -p /run/cdi /run/lock && mount -t tmpfs tmpfs /usr/local/bin && exec "$0" "$@"' "$0" "$@"
fi
e2e_start
ln -s "$SEALANE" /usr/local/bin/sealane

cat >"$T/containers.conf" <<CONF
[containers]
default_ulimits = ["nofile=1024:$(ulimit -Hn)", "nproc=4096:4096"]
pids_limit = 0
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
[network]
network_backend = "netavark"
CONF
export CONTAINERS_CONF=$T/containers.conf
pod() { podman --root "$T/podman" --runroot "$T/podman-run" --tmpdir "$T/podman-tmp" "$@"; }
podman_end() {
	local rc=$? n
	set +e
	for n in cache web intruder; do pod rm -f -t 0 "$n-$CTR_TAG" >/dev/null 2>&1; done
	awk -v t="$T/" 'index($2, t) == 1 { print $2 }' /proc/self/mounts | sort -r | while read -r n; do umount -l "$n"; done
	ctr_cgroups_down libpod_parent
	(exit "$rc")
	e2e_end
}
trap podman_end EXIT

host_up <<'CONF'
cdi_dir = "/run/cdi"
workload cache { services = [ redis, echo ] }
service redis { socket_path = "redis.sock" }
service echo {}
service web { upstream redis {} }
service intruder { upstream redis {} }
intention { source = web  destination = redis  action = allow }
intention { source = web  destination = echo  action = allow }
CONF
check "the daemon writes a CDI file" within 5 test -s /run/cdi/sealane.json
check "it is JSON with our kind" jq -e '.kind == "sealane.dev/workload"' /run/cdi/sealane.json
pod_run() { # WORKLOAD OPTION... -- COMMAND...
	local workload=$1 options=()
	shift
	while [ "$1" != -- ]; do options+=("$1"); shift; done
	shift
	pod run --detach --name "$workload-$CTR_TAG" --pull=never --device "sealane.dev/workload=$workload" --network=none \
		--cap-drop=all --read-only --cgroup-parent "/$CTR_TAG" --volume /usr:/usr:ro --volume "$E2E_DIR:/e2e:ro" \
		--volume "$BUILD/tests/e2e:/tool:ro" \
		"${options[@]}" --rootfs "$ROOTFS" "$@"
}
if ! pod run --rm --pull=never --network=none --volume /usr:/usr:ro --rootfs "$ROOTFS" true >"$T/probe" 2>&1; then
	skip "podman starts no container on this machine: $(tail -1 "$T/probe")"
fi
check "the server's container starts" pod_run cache -- redis-server --port 0 --unixsocket /run/sealane/serve/redis.sock \
	--unixsocketperm 777 --save '' --dir /tmp
check "redis comes up" within 10 service_is_up redis
check "web's container starts" pod_run web -- sleep 1d
check "intruder's container starts" pod_run intruder -- sleep 1d
in_pod() { pod exec "$1-$CTR_TAG" redis-cli -s /run/sealane/redis.sock "${@:2}"; }
check_equal "podman: PING" PONG "$(in_pod web PING)"
check_not "podman: intruder is refused" in_pod intruder PING
pod exec --detach --user 1000:1000 "cache-$CTR_TAG" /tool/lanetool serve echo >/dev/null
lane() { pod exec --user 1000:1000 "$1-$CTR_TAG" /tool/lanetool ping echo 100 64; }
check "library: 100 messages under podman's own seccomp profile, as an ordinary user" within 5 lane web
check_fails "library: intruder is refused" 'no intention' lane intruder
# `podman exec` of podman 4 leaves out a CDI device's environment; the container's own process has it.
check_match "podman: environment" 'SEALANE_DIR=/run/sealane' "$(pod exec "web-$CTR_TAG" cat /proc/1/environ | tr '\0' ' ')"
check_equal "podman: enrolled by the hook" 3 "$(api /v1/workloads | jq '[.workloads[] | select(.enrolled_by == "hook")] | length')"
sl intention allow intruder redis --strict >/dev/null
check_equal "podman: identity holds through the relay" "relay PONG" "$(route_of intruder redis) $(in_pod intruder PING)"
check_fails "an unknown workload is no device" 'unresolvable|CDI' pod run --rm --pull=never --network=none \
	--device sealane.dev/workload=nobody-knows --volume /usr:/usr:ro --rootfs "$ROOTFS" true
pod rm -f -t 0 "web-$CTR_TAG" >/dev/null
gone() { [ "$(api /v1/workloads/web | jq -r .state)" = absent ]; }
check "the workload is absent when its container has gone" within 5 gone
host_kill KILL
check_not "without the daemon no container starts unenrolled" pod_run web -- sleep 1d
pod rm -f -t 0 "web-$CTR_TAG" >/dev/null 2>&1 || true
host_start
check "and with it it does again" pod_run web -- sleep 1d
check_equal "podman: same mount, new container" PONG "$(in_pod web PING)"
