#!/bin/sh
# Protection keys where the (emulated) CPU has them: runs inside the test machine (run.sh), whose /test holds test_keys_vm, and
# test_keys, test_lane and test_call: the library's ordinary tests, here with the keys on.
grep -qw ospke /proc/cpuinfo || { echo "this machine's CPU has no protection keys" >&2; exit 77; }
n_failed=0
for t in test_keys_vm test_keys test_lane test_call; do
	SEALANE_KEYS=require /test/$t || n_failed=$((n_failed + 1))
done
exit $n_failed
