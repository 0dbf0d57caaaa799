# bash completion for sealane(1)

# Names come from the daemon; when none answers there is nothing to offer.
_sealane_names() {
	sealane ${socket:+--socket "$socket"} --json ls "$1" 2>/dev/null | sed 's/"name"/\n&/g' | sed -n 's/^"name": *"\([^"]*\)".*/\1/p' | sort -u
}

# The daemon that the line asks is the one whose names count. readline takes "=" for a word of its own.
_sealane_find_socket() {
	local j
	for ((j = 1; j < COMP_CWORD; j++)); do
		[[ ${COMP_WORDS[j]} == --socket ]] || continue
		[[ ${COMP_WORDS[j + 1]} == = ]] && ((j++))
		((j + 1 < COMP_CWORD)) && socket=${COMP_WORDS[j + 1]}
		socket=${socket/#\~/$HOME}
	done
}

_sealane() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} verb= i words= socket=
	COMPREPLY=()
	for ((i = 1; i < COMP_CWORD; i++)); do
		case ${COMP_WORDS[i]} in
		--socket) [[ ${COMP_WORDS[i + 1]} == = ]] && ((i++)); ((i++)) ;;
		-*) ;;
		*) verb=${COMP_WORDS[i]}; break ;;
		esac
	done
	_sealane_find_socket
	case $prev in
	--socket | --rootfs | --dir | --cgroup) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- "$cur")); return ;;
	--service) words=$(_sealane_names services) ;;
	--workload) words=$(_sealane_names workloads) ;;
	--net) words="none host" ;;
	--wait) words="adaptive spin block" ;;
	*)
		case $verb in
		'') words="status ls explain intention catalogue run enrol unenrol drain reload logs top doctor bench ca join cdi hook help version --json --socket --help --version" ;;
		ls) words="workloads services intentions lanes sockets hosts links certificates --json" ;;
		explain) words="$(_sealane_names services) --json" ;;
		catalogue) words="accept restore --json" ;;
		intention)
			for ((i++; i < COMP_CWORD; i++)); do
				[[ ${COMP_WORDS[i]} != @(allow|deny|rm|ls) ]] || break
			done
			if ((i == COMP_CWORD)); then words="allow deny rm ls --json"
			else
				words="$(_sealane_names services) --json"
				case ${COMP_WORDS[i]} in
				allow) words+=" --strict --bytes-per-s --open-lanes --connections-per-s --expires --cluster" ;;
				deny) words+=" --expires --cluster" ;;
				rm) words+=" --cluster" ;;
				esac
			fi ;;
		run)
			for ((i++; i < COMP_CWORD; i++)); do
				case ${COMP_WORDS[i]} in
				--service | --workload | --rootfs | --net) ((i++)) ;;
				--) ((i++)); break 2 ;;
				esac
			done
			words="--service --workload --rootfs --net --" ;;
		enrol) words="--container --pid --cgroup --workload --service --label --json" ;;
		unenrol) words=$(_sealane_names workloads) ;;
		drain) words="$(_sealane_names workloads) --undo" ;;
		logs) words="-f -n --json" ;;
		top) words="-n -d --json" ;;
		bench) words="rdma --listen --connect --wait --time --json" ;;
		ca) words="init token tokens withdraw ls grant ungrant revoke unrevoke rotate-root retire-root --service --for --address --json" ;;
		join) words="--again --json" ;;
		cdi) words="--dir" ;;
		hook) words="createRuntime poststop --workload" ;;
		help) words="status ls explain intention catalogue run enrol unenrol drain reload logs top doctor bench ca join cdi hook" ;;
		*) words="--json" ;;
		esac ;;
	esac
	COMPREPLY=($(compgen -W "$words" -- "$cur"))
}
complete -o default -F _sealane sealane
