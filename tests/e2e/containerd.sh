#!/bin/bash
# containerd as Debian 12 has it (1.6: no CDI outside Kubernetes) through ctr: with sealane-runc, by pid and by cgroup path.
# containerd and its containers live in a network and a mount namespace of the test's own.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need containerd ctr busybox
e2e_unshare /run
e2e_start

c8d() { ctr --address "$T/containerd.sock" --timeout 20s "$@"; }
c8d_rm() { # NAME - its task and it
	c8d task kill --signal KILL "$1" >/dev/null 2>&1 || true
	within 10 c8d task rm "$1" || true
	c8d container rm "$1" >/dev/null 2>&1 || true
}
containerd_end() {
	local rc=$? id
	set +e
	[ "$rc" = 0 ] && [ "$N_FAILED" = 0 ] || engine_log "$T/containerd.log"
	c8d container ls -q 2>/dev/null | while read -r id; do c8d_rm "$id"; done
	containerd_down
	(exit "$rc")
	e2e_end
}
trap containerd_end EXIT

containerd_up
ln -s "$SEALANE" "$T/sealane-runc"
host_up <<CONF
workload cache { services = [ redis ] }
service redis { socket_path = "redis.sock" }
service web { upstream redis {} }
service intruder { upstream redis {} }
workload batch { services = [ batch ]  cgroup = "/$CTR_TAG/batch" }
service batch { upstream redis {} }
intention { source = web  destination = redis  action = allow }
intention { source = batch  destination = redis  action = allow }
CONF
ctr_rootfs "$T/image" redis-server redis-cli

c8d_run() { # WORKLOAD OPTION... -- COMMAND...
	local workload=$1 options=()
	shift
	while [ "$1" != -- ]; do options+=("$1"); shift; done
	shift
	c8d run --rootfs --read-only --seccomp --env PATH=/usr/bin:/bin --cgroup "/$CTR_TAG/$workload" \
		--mount "type=bind,src=$T/run/w/$workload,dst=/run/sealane,options=rbind:ro" "${options[@]}" "$T/image" "$workload" "$@"
}
N_EXEC=0
in_c8d() {
	N_EXEC=$((N_EXEC + 1))
	c8d task exec --exec-id "e$N_EXEC-$BASHPID" "$1" redis-cli -s /run/sealane/redis.sock "${@:2}"
}
by() { api "/v1/workloads/$1" | jq -r '.enrolled_by // ""'; }
gone() { [ "$(api "/v1/workloads/$1" | jq -r .state)" = absent ]; }
ours=(--runc-binary "$T/sealane-runc")
if ! c8d run --rm --rootfs --read-only --cgroup "/$CTR_TAG/probe" "$T/image" probe /bin/true >"$T/probe" 2>&1; then
	skip "containerd starts no container on this machine: $(tail -1 "$T/probe")"
fi

note "with --runc-binary sealane-runc"
check "the server's container starts" c8d_run cache --detach --null-io "${ours[@]}" \
	--mount "type=bind,src=$T/run/w/cache/serve,dst=/run/sealane/serve,options=rbind:rw" \
	--mount "type=tmpfs,src=tmpfs,dst=/tmp,options=nosuid:nodev" -- redis-server --port 0 \
	--unixsocket /run/sealane/serve/redis.sock --unixsocketperm 777 --save '' --dir /tmp
check "redis comes up" within 10 service_is_up redis
check_equal "enrolled before its program starts" PONG \
	"$(c8d_run web --rm "${ours[@]}" -- redis-cli -s /run/sealane/redis.sock PING 2>&1)"
check "absent when the container has ended" within 5 gone web
check "web's container starts" c8d_run web --detach --null-io "${ours[@]}" -- sleep 1d
check "intruder's container starts" c8d_run intruder --detach --null-io "${ours[@]}" -- sleep 1d
check_equal "enrolled by the hook" "hook hook hook" "$(by cache) $(by web) $(by intruder)"
check_equal "PING by ctr task exec" PONG "$(in_c8d web PING)"
check_not "intruder is refused" in_c8d intruder PING
check_match "and the log says who" '"source":"default/intruder"' "$(events lane.deny | tail -1)"
c8d task kill --signal KILL web
check "the ended task is removed" within 10 c8d task rm web
check "absent without a task" within 5 gone web
check "another task of the same container" c8d task start --detach --null-io web
check_equal "enrolled again" "hook PONG" "$(by web) $(in_c8d web PING)"
c8d_rm web
check "absent when its container has gone" within 5 gone web
host_kill KILL
check_not "without the daemon no container starts unenrolled" c8d_run web --rm "${ours[@]}" -- true
c8d_rm web
host_start

note "with runc"
check "web's container starts" c8d_run web --detach --null-io -- sleep 1d
check_not "refused before it is enrolled" in_c8d web PING
check "sealane enrol --pid" sl enrol --pid "$(c8d task ls | awk '$1 == "web" { print $2 }')" --workload web
check_equal "PING after it" "cli PONG" "$(by web) $(in_c8d web PING)"
c8d_rm web
check "absent when it has gone" within 5 gone web
check "a container in a configured cgroup starts" c8d_run batch --detach --null-io -- sleep 1d
enrolled() { [ "$(by batch)" = config ]; }
check "enrolled by its cgroup's path" within 5 enrolled
check_equal "PING then" PONG "$(in_c8d batch PING)"
c8d_rm batch
check "absent when that has gone" within 5 gone batch
check "another container in that cgroup starts" c8d_run batch --detach --null-io -- sleep 1d
check "enrolled by the same path" within 5 enrolled
