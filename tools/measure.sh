# shellcheck shell=bash
# redis-benchmark in a container, and medians of what it says. Sourced by ./quickstart and bench/redis.sh.

# measure_redis CONTAINER [redis-benchmark options] - lines "TEST RPS P50_MS P99_MS"
measure_redis() {
	local name=$1
	shift
	ctr_exec "$name" redis-benchmark --csv "$@" 2>/dev/null | tr -d '"' |
		awk -F, '$1 != "test" && NF >= 8 { gsub(/ \(first 600 elements\)| \(needed to.*\)/, "", $1); sub(/ \(.*/, "", $1); gsub(/ /, "_", $1)
			print $1, $2, $5, $7 }'
}

# measure_median - the median of the numbers on standard input, one a line
measure_median() {
	sort -g | awk '{ v[NR] = $1 } END { if (NR) print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'
}

# measure_spread - "-3/+5 %": least and most of the numbers on standard input beside their median
measure_spread() {
	sort -g | awk '{ v[NR] = $1 } END { m = NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2
		if (m > 0) printf "%+.0f/%+.0f %%\n", (v[1] / m - 1) * 100, (v[NR] / m - 1) * 100 }'
}
