#!/bin/bash
# Docker as Debian 12 has it (20.10: no CDI, no hooks): with sealane-runc as the containers' runtime, and enrolled by hand.
# dockerd and its containers live in a network and a mount namespace of the test's own; the image is made here.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
PATH=/usr/sbin:/usr/bin:/sbin:/bin # the client that belongs to this dockerd
need dockerd docker containerd busybox
e2e_unshare /run /etc/docker
e2e_start
unset DOCKER_CONTEXT
export DOCKER_CONFIG=$T/docker-config DOCKER_HOST=unix://$T/docker.sock
E_PID=

docker_end() {
	local rc=$? id
	set +e
	if [ -n "$E_PID" ]; then
		docker ps -aq 2>/dev/null | while read -r id; do docker rm -f "$id" >/dev/null 2>&1; done
		kill "$E_PID" 2>/dev/null
		wait "$E_PID" 2>/dev/null
	fi
	[ "$rc" = 0 ] && [ "$N_FAILED" = 0 ] || engine_log "$T/docker.log"
	containerd_down
	(exit "$rc")
	e2e_end
}
trap docker_end EXIT

containerd_up
ln -s "$SEALANE" "$T/sealane-runc"
echo "{ \"runtimes\": { \"sealane\": { \"path\": \"$T/sealane-runc\" } } }" >"$T/docker.json"
# No container here has a network, so dockerd needs none.
dockerd --host "$DOCKER_HOST" --containerd "$T/containerd.sock" --data-root "$T/docker" --exec-root "$T/docker-run" \
	--pidfile "$T/docker.pid" --config-file "$T/docker.json" --bridge none --iptables=false --ip6tables=false --ip-forward=false \
	--cgroup-parent "/$CTR_TAG" --exec-opt native.cgroupdriver=cgroupfs </dev/null >"$T/docker.log" 2>&1 &
E_PID=$!
within 30 docker version || skip "dockerd does not start on this machine: $(tail -1 "$T/docker.log")"

host_up <<'CONF'
workload cache { services = [ redis, echo ] }
service redis { socket_path = "redis.sock" }
service echo {}
service web { upstream redis {} }
service intruder { upstream redis {} }
intention { source = web  destination = redis  action = allow }
intention { source = web  destination = echo  action = allow }
CONF
ctr_rootfs "$T/image" redis-server redis-cli
tar -C "$T/image" -c . | docker import - sealane-e2e >/dev/null
if ! docker run --rm --network none sealane-e2e true >"$T/probe" 2>&1; then
	skip "docker starts no container on this machine: $(tail -1 "$T/probe")"
fi

dock_run() { # WORKLOAD OPTION... -- COMMAND...
	local workload=$1 options=()
	shift
	while [ "$1" != -- ]; do options+=("$1"); shift; done
	shift
	docker run --network none --cap-drop all --read-only --volume "$T/run/w/$workload:/run/sealane:ro" \
		--volume "$BUILD/tests/e2e:/tool:ro" "${options[@]}" sealane-e2e "$@"
}
in_dock() { docker exec "$1" redis-cli -s /run/sealane/redis.sock "${@:2}"; }
by() { api "/v1/workloads/$1" | jq -r '.enrolled_by // ""'; }
gone() { [ "$(api "/v1/workloads/$1" | jq -r .state)" = absent ]; }

note "with --runtime sealane"
check "the server's container starts" dock_run cache --detach --name cache --runtime sealane \
	--volume "$T/run/w/cache/serve:/run/sealane/serve" --tmpfs /tmp -- redis-server --port 0 \
	--unixsocket /run/sealane/serve/redis.sock --unixsocketperm 777 --save '' --dir /tmp
check "redis comes up" within 10 service_is_up redis
check_equal "enrolled before its program starts" PONG \
	"$(dock_run web --rm --runtime sealane -- redis-cli -s /run/sealane/redis.sock PING 2>&1)"
check "absent when the container has ended" within 5 gone web
check "web's container starts" dock_run web --detach --name web --runtime sealane -- sleep 1d
check "intruder's container starts" dock_run intruder --detach --name intruder --runtime sealane -- sleep 1d
check_equal "enrolled by the hook" "hook hook hook" "$(by cache) $(by web) $(by intruder)"
check_equal "PING by docker exec" PONG "$(in_dock web PING)"
check_not "intruder is refused" in_dock intruder PING
check_match "and the log says who" '"source":"default/intruder"' "$(events lane.deny | tail -1)"
check "docker restart" docker restart --time 1 web
check_equal "enrolled again" "hook PONG" "$(by web) $(in_dock web PING)"
check "the server restarts" docker restart --time 1 cache
check "redis comes up again" within 10 service_is_up redis
check_equal "PING to the new one" PONG "$(in_dock web PING)"
sl intention allow intruder redis --strict >/dev/null
docker exec --detach --user 1000:1000 cache /tool/lanetool serve echo
lane() { docker exec --user 1000:1000 "$1" /tool/lanetool ping echo 100 64; }
check "library: 100 messages under docker's own seccomp profile, as an ordinary user" within 5 lane web
check_fails "library: intruder is refused" 'no intention' lane intruder
check_equal "identity holds through the relay" "relay PONG" "$(route_of intruder redis) $(in_dock intruder PING)"
check_fails "no second container of a workload" "already runs" dock_run web --rm --runtime sealane -- true
check_fails "no container of an unknown workload" "no workload 'nobody-knows'" dock_run nobody-knows --rm --runtime sealane -- true
check "a container that is no workload starts" docker run --rm --network none --runtime sealane --ulimit core=-1 sealane-e2e true
docker rm -f web >/dev/null
check "absent when its container has gone" within 5 gone web
host_kill KILL
check_not "without the daemon no container starts unenrolled" dock_run web --rm --runtime sealane -- true
host_start

note "with docker's own runtime"
check "web's container starts" dock_run web --detach --name web -- sleep 1d
check_not "refused before it is enrolled" in_dock web PING
check "sealane enrol --container" sl enrol --container "$(docker inspect -f '{{.Id}}' web)" --workload web
check_equal "PING after it" "cli PONG" "$(by web) $(in_dock web PING)"
docker rm -f web >/dev/null
check "absent when it has gone" within 5 gone web
check "web's container starts again" dock_run web --detach --name web -- sleep 1d
check "sealane enrol --pid" sl enrol --pid "$(docker inspect -f '{{.State.Pid}}' web)" --workload web
check_equal "PING after that" PONG "$(in_dock web PING)"
