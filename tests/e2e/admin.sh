#!/bin/bash
# The admin interface of a live daemon: its OpenAPI description, /metrics, and who may do what.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
e2e_start

host_up <<'CONF'
admin { mode = "0666" }
workload cache { services = [ redis ] }
service redis { socket_path = "redis.sock"  check { socket = true  interval = 1s } }
service web { upstream redis {} }
service intruder { upstream redis {} }
intention { source = web  destination = redis  action = allow  strict = true }
CONF
redis_run cache
ctr_run web sleep 1d
ctr_run intruder sleep 1d
ctr_exec web redis-cli -s /run/sealane/redis.sock SUBSCRIBE news >/dev/null 2>&1 &
redis_in intruder PING >/dev/null 2>&1 || true
if "$PYTHON" -c 'import jsonschema' 2>/dev/null; then
	check "answers are as openapi.json says" "$PYTHON" "$ROOT/tests/check_openapi.py" "$SOCK"
else
	echo "skip - admin: python3-jsonschema is not installed: answers are not compared with openapi.json"
fi
if command -v promtool >/dev/null; then
	check "promtool finds nothing in /metrics" bash -c "curl -sS --unix-socket '$SOCK' http://sealane/metrics | promtool check metrics"
else
	echo "skip - admin: promtool is not installed"
fi
nobody() { setpriv --reuid 65534 --regid 65534 --clear-groups "$@"; }
code() { curl -s -o /dev/null -w '%{http_code}' --max-time 10 --unix-socket "$SOCK" "$@"; }
check_equal "others may read, if the file's mode lets them" 200 "$(nobody curl -s -o /dev/null -w '%{http_code}' --unix-socket "$SOCK" http://sealane/v1/status)"
check_equal "others may change nothing" 403 "$(nobody curl -s -o /dev/null -w '%{http_code}' --unix-socket "$SOCK" \
	-d '{"source":"intruder","destination":"redis","action":"allow"}' http://sealane/v1/intentions)"
check_fails "the command line says who may" 'uid|permission|forbidden|may' nobody "$SEALANE" --socket "$SOCK" intention allow intruder redis
check_not "and nothing changed" redis_in intruder PING
check_equal "what is not there" 404 "$(code http://sealane/v1/nonsense)"
check_equal "a body that is no JSON" 400 "$(code -d '{' http://sealane/v1/intentions)"
head -c 200000 /dev/zero | tr '\0' 'x' >"$T/large"
check_match "a body that is too large" '^(413|400|000)$' "$(code --data-binary "@$T/large" http://sealane/v1/intentions || true)"
check "and it still answers" sl status
for verb in status "ls workloads" "ls services" "ls intentions" "ls lanes" "explain web redis" doctor; do
	check "sealane --json $verb" bash -c "'$SEALANE' --socket '$SOCK' --json $verb | jq -e . >/dev/null"
	# shellcheck disable=SC2086
	check "sealane $verb" sl $verb
done
# The first check may have been before the server.
health_is_shown() { sl ls services | grep -q passing; }
check "ls services shows health" within 10 health_is_shown
check_fails "no daemon: it says what to do" 'sealaned' "$SEALANE" --socket "$T/nothing.sock" status
timeout 60 "$SEALANE" --socket "$SOCK" logs -f >"$T/logs" 2>&1 || true &
followed() {
	redis_in intruder PING || true
	grep -q 'lane.deny' "$T/logs"
}
check "logs -f follows" within 3 followed
