#!/usr/bin/env bash
# launch/local.sh 2 --config configs/dora.py --workdir runs/venice --config.data.video=venice/
#
# Runs so many processes of `ssljax train` on this host and watches them: when one dies, or its heartbeat is overdue,
# all are killed and started again, at most RESTARTS times (10); the run goes on from its newest checkpoint.
# Ctrl-C and SIGTERM let them save and stop. Ends with 0 when the run has finished, 2 on bad input (no restart), 75 when
# it was told to stop and has saved (the same command continues), else with the code of the process that ended first.
#
# GPUs are shared out evenly, those of CUDA_VISIBLE_DEVICES or all. Where the arguments hold --distributed or
# --coordinator, the processes are one host's part of a larger run, the first of them being number PROCESS (0).
# START_SECONDS (3600) may pass before the first heartbeat, STOP_SECONDS (600) while saving at the end.
set -euo pipefail

say() { echo "launch/local.sh: $*" >&2; }
refuse() { say "$1; use it as launch/local.sh PROCESSES --config FILE --workdir FOLDER ..."; exit 2; }

[[ ${1:-} =~ ^[1-9][0-9]*$ ]] || refuse "the first argument is '${1:-}', not a number of processes"
count=$1 workdir="" placed=""
shift
for ((i = 1; i <= $#; i++)); do
	case ${!i} in
		--workdir) next=$((i + 1)) && workdir=${!next:-} ;;
		--workdir=*) workdir=${!i#*=} ;;
		--distributed | --coordinator | --coordinator=*) placed=already ;;
	esac
done
[[ $workdir ]] || refuse "--workdir is missing"
command -v ssljax >/dev/null || refuse "no ssljax is on the PATH: activate the environment that holds it"
mkdir -p "$workdir/logs"

keeps() { # whether the folder's file system does what a run and its heartbeats need, which those over buckets do not
	local folder due=$(($(date +%s) + 3600))
	folder=$(mktemp --directory "$workdir/probe-XXXXXX") && mkdir "$folder/a" &&
		echo 1 >"$folder/a/file" && echo 2 >>"$folder/a/file" && touch --date="@$due" "$folder/a/file" &&
		mv "$folder/a" "$folder/b" && [[ $(stat -c %Y "$folder/b/file") == "$due" && $(wc -l <"$folder/b/file") == 2 ]]
	local kept=$?
	rm -rf "$folder"
	return $kept
}
keeps || refuse "$workdir does not keep appended lines, renamed folders and times of modification to come, which \
heartbeats are: --workdir has to be on a shared POSIX file system, not on a bucket"
first=${PROCESS:-0} logs=() beats=()
for ((i = first; i < first + count; i++)); do
	logs+=("$workdir/logs/process-$i.log") beats+=("$workdir/heartbeats/$i")
done

gpus=()
if [[ ${CUDA_VISIBLE_DEVICES:-} ]]; then
	IFS=, read -ra gpus <<<"$CUDA_VISIBLE_DEVICES"
elif [[ -z ${CUDA_VISIBLE_DEVICES+set} ]] && command -v nvidia-smi >/dev/null; then
	mapfile -t gpus < <(nvidia-smi --query-gpu=index --format=csv,noheader)
fi
((${#gpus[@]} % count == 0)) || refuse "${#gpus[@]} GPUs cannot be shared out evenly to $count processes"
each=$((${#gpus[@]} / count))

asked=0 pids=() codes=() # codes: of the processes that have ended, by their place
trap '((asked += 1))' INT TERM HUP
trap kill_all EXIT

start() {
	local address i place own
	while address=127.0.0.1:$((20000 + RANDOM % 12000)); (exec 3<>"/dev/tcp/${address/://}") 2>/dev/null; do :; done
	printf -v started '%(%s)T' -1
	pids=() codes=()
	for ((i = 0; i < count; i++)); do
		place=() own=()
		[[ $placed ]] || place=(--coordinator "$address" --processes "$count" --process "$i")
		((each == 0)) || own=("CUDA_VISIBLE_DEVICES=$(IFS=, && echo "${gpus[*]:i * each:each}")")
		rm -f "${beats[i]}" # an earlier start's
		printf '== start %d, %(%F %T)T\n' $((restart + 1)) -1 >>"${logs[i]}"
		# A session of its own, so that its workers are killed with it and Ctrl-C reaches it through this script alone;
		# and it does not outlive this script.
		env "${own[@]}" setsid setpriv --pdeathsig KILL ssljax train "${place[@]}" "$@" >>"${logs[i]}" 2>&1 </dev/null &
		pids+=($!)
	done
}

collect() {
	local i code
	for i in "${!pids[@]}"; do
		if [[ -z ${codes[i]:-} ]] && ! kill -0 "${pids[i]}" 2>/dev/null; then
			code=0
			wait "${pids[i]}" || code=$?
			codes[i]=$code
		fi
	done
}

kill_all() { # a stopped process ends by SIGKILL alone
	local pid
	for pid in "${pids[@]}"; do kill -KILL -- "-$pid" 2>/dev/null || true; done
	while ((${#codes[@]} < ${#pids[@]})); do collect; sleep 0.1 || true; done
}

fail() { reason+=${reason:+", "}$2 && ((code != 0 && code != 75)) || code=$1; }

judge() { # of one process: sets `code`, and `reason` where the run cannot go on
	local name="process $((first + $1))" due
	case ${codes[$1]:-running} in
		0) ;; # it waits for the others, as one does that has saved
		75) ((code != 0)) || code=75 ;;
		running)
			due=$(stat -c %Y "${beats[$1]}" 2>/dev/null) || due=$((started + ${START_SECONDS:-3600}))
			((due >= now)) || fail 137 "$name is stuck, at: $(cat "${beats[$1]}" 2>/dev/null || true)"
			;;
		*) fail "${codes[$1]}" "$name ended with ${codes[$1]}" ;;
	esac
}

watch() { # until all have ended, by themselves or killed
	local i now passed=0 stopping=""
	while [[ -z $reason ]] && ((${#codes[@]} < count)); do
		sleep 0.3 || true
		printf -v now '%(%s)T' -1
		if ((asked > passed)); then # a second Ctrl-C is passed on too: then they end without saving
			passed=$asked stopping=${stopping:-$now}
			say "stopping; the processes save first"
			for i in "${!pids[@]}"; do [[ ${codes[i]:-} ]] || kill -TERM "${pids[i]}" 2>/dev/null || true; done
		fi
		collect
		for i in "${!pids[@]}"; do judge "$i"; done
		[[ -z $stopping ]] || ((now < stopping + ${STOP_SECONDS:-600})) || fail 137 "saving took too long"
	done
	for i in "${!pids[@]}"; do # why the others may have given up
		[[ ${codes[i]:-} || $(ps -o stat= -p "${pids[i]}") != T* ]] || reason+=", process $((first + i)) was stopped"
	done
	kill_all
	[[ " ${codes[*]} " != *" 2 "* ]] || code=2
}

limit=${RESTARTS:-10}
[[ $limit =~ ^[0-9]+$ ]] || refuse "RESTARTS is '$limit', not a number"
for ((restart = 0; ; restart++)); do
	say "$count processes, start $((restart + 1)) of at most $((limit + 1)); logs in $workdir/logs"
	code=0 reason=""
	start "$@"
	watch
	((code != 0)) || exit 0
	say "${reason:-stopped and saved}"
	[[ -z $reason ]] || for log in "${logs[@]}"; do echo "== $log" && tail -n 15 "$log"; done >&2
	((code != 2 && asked == 0)) || exit "$code"
	((restart < limit)) || { say "gave up after $limit restarts"; exit "$code"; }
done
