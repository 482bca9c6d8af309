#!/usr/bin/env bash
# TPU=venice ZONE=us-west4-a SHARE=10.0.0.2:/share launch/tpu_vm.sh --config configs/dora.py --workdir /share/runs/venice --config.data.video=/share/venice
#
# Runs `ssljax train` on all hosts of a Cloud TPU slice and watches it to the end. On each host launch/local.sh kills and
# restarts what dies or hangs, whether this script goes on or not: the same command watches again. The slice has to be
# there; with ACCELERATOR=v5litepod-16 VERSION=v2-alpha-tpuv5-lite (and SPOT=yes) a queued resource is made where it is
# not, and again whenever it is preempted; where gcloud cannot tell (no network, an expired login), it is asked again
# every minute, ASKS (60) times. SHARE is an NFS folder, such as Filestore's, that all hosts mount at /share.
#
# Ends with 0 when the run has finished, 2 on bad input, 75 when it was told to stop and has saved, which
#   TPU=venice ZONE=us-west4-a launch/tpu_vm.sh --stop
# does, and otherwise with the code of a host that gave up after RESTARTS (20).
set -euo pipefail

say() { echo "launch/tpu_vm.sh: $*" >&2; }
: "${TPU:?is the name of the slice; see the head of launch/tpu_vm.sh}" "${ZONE:?is the zone of the slice}"
ASKS=${ASKS:-60}
root=$(cd "$(dirname "$0")/.." && pwd)
package=$(mktemp --suffix=.tar.gz) errors=$(mktemp)
trap 'rm -f "$package" "$errors"' EXIT

at_all() { gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --quiet --command="$1"; }
host() { at_all "bash ssljax/launch/tpu_host.sh $(printf '%q ' "$@")"; }
pause() { sleep "${PERIOD:-60}"; }

look_up() { # sets `now`: the state of the slice, MISSING only where gcloud says so; what else fails is asked again
	local failed=0
	until now=$(gcloud compute tpus tpu-vm describe "$TPU" --zone="$ZONE" --format='value(state)' 2>"$errors"); do
		now=MISSING
		! grep --quiet "NOT_FOUND.*/nodes/$TPU'" "$errors" || return 0
		((failed += 1))
		say "the state of $TPU is unknown ($failed of at most $ASKS in a row): $(head -n 1 "$errors")"
		((failed < ASKS)) || { say "gave up the watching, not the run; the same command watches again"; exit 1; }
		pause
	done
}

make_slice() {
	say "asking for $ACCELERATOR"
	gcloud compute tpus queued-resources delete "$TPU" --zone="$ZONE" --quiet --force >/dev/null 2>&1 || true
	gcloud compute tpus queued-resources create "$TPU" --zone="$ZONE" --quiet --node-id="$TPU" ${SPOT:+--spot} \
		--accelerator-type="$ACCELERATOR" --runtime-version="${VERSION:?is the runtime of the slice, such as tpu-ubuntu2204-base}"
}

wait_for_slice() {
	local asked=""
	while look_up && [[ $now != READY ]]; do
		if [[ -z $asked && $now =~ ^(MISSING|PREEMPTED|TERMINATED|STOPPED)$ ]]; then
			say "$TPU is $now"
			[[ ${ACCELERATOR:-} ]] || { say "start it, or name what to make by ACCELERATOR and VERSION"; exit 1; }
			make_slice
			asked=yes
		fi
		pause
	done
}

look() { # sets `codes`: how it stands on the hosts, each word once
	codes=$(host look) && codes=$(sed -n 's/^ssljax: //p' <<<"$codes" | sort -u | paste -sd ' ')
}

start() {
	say "installing and starting on all hosts of $TPU"
	tar -C "$root" -czf "$package" ssljax data_prep configs launch requirements pyproject.toml README.md LICENSE
	gcloud compute tpus tpu-vm scp "$package" "$TPU:ssljax.tar.gz" --zone="$ZONE" --worker=all --quiet
	at_all "mkdir -p ssljax && tar -xzf ssljax.tar.gz -C ssljax && bash ssljax/launch/tpu_host.sh install ${SHARE:-}"
	RESTARTS=${RESTARTS:-20}
	host start "$RESTARTS" "$@"
	say "logs in WORKDIR/logs; Ctrl-C ends the watching, not the run"
}

if [[ ${1:-} == --stop ]]; then
	host stop
	exit
fi
wait_for_slice
if ! look 2>/dev/null || [[ $codes != *running* ]]; then start "$@"; fi
while pause; do
	if ! look; then # the network, or the slice is gone
		look_up
		[[ $now != READY ]] || continue
		wait_for_slice
		start "$@"
		continue
	fi
	code=1
	case " $codes " in
		"  ") continue ;;
		" 0 ") say "the run has finished" && exit 0 ;;
		*" 2 "*) code=2 ;;
		*" lost "*) start "$@" && continue ;;
		" running " | " 0 running " | " 75 running ") continue ;; # those that finished or saved wait for the others
		*) for one in $codes; do [[ $one =~ ^(0|running)$ ]] || code=$one; done ;;
	esac
	say "a host ended with $code; its log is in WORKDIR/logs, and in ssljax.out on the host"
	host stop
	exit "$code"
done
