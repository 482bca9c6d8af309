#!/usr/bin/env bash
# sudo launch/test/slurm.sh
#
# Starts a Slurm of its own on this host (Debian: apt-get install slurm-wlm munge), submits launch/slurm.sbatch to it in
# every way that matters, and says whether each ended as it should: above all, that a run of which one task is killed
# queues itself again and ends with the bits of a run that nothing disturbed. Everything is in a temporary folder, and
# the daemons end with the script. Takes about 6 minutes on 2 cores. PYTHON=... names a Python with ssljax's
# requirements (.venv/bin/python); EXPIRE=120 lets Slurm wait between two starts as long as it does by default.
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
missing=""
for program in munged slurmctld slurmd sbatch setsid "$python"; do command -v "$program" >/dev/null || missing+=" $program"; done
[[ -z $missing ]] || { echo "$0: missing:$missing" >&2; exit 3; }
((EUID == 0)) || { echo "$0: Slurm's daemons start as root alone" >&2; exit 3; }

work=$(mktemp -d /tmp/ssljax-slurm-XXXXXX)
daemons=()
clean_up() {
	code=$?
	scancel --user=root --full 2>/dev/null || true
	for pid in "${daemons[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
	for pid in "${daemons[@]}"; do timeout 20 tail --pid="$pid" -f /dev/null || kill -KILL "$pid" 2>/dev/null || true; done
	if ((code != 0)) && [[ -s $work/slurmd.log ]]; then echo "$0: what is left to look at: $work"; else rm -rf "$work"; fi
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# --- A cluster of one node, with as many CPUs as are asked for
host=$(hostname -s)
chmod 755 "$work"
mkdir -m 700 "$work/key"
mkdir -m 755 "$work/munge" "$work/state" "$work/spool"
dd if=/dev/urandom of="$work/key/munge.key" bs=128 count=1 status=none
chmod 600 "$work/key/munge.key"
cat >"$work/slurm.conf" <<END
ClusterName=ssljax
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmctldPort=26817
SlurmdPort=26818
AuthType=auth/munge
AuthInfo=socket=$work/munge/socket,cred_expire=${EXPIRE:-10}
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd.log
MpiDefault=none
ReturnToService=2
MinJobAge=7200
KillWait=10
NodeName=$host NodeAddr=127.0.0.1 CPUs=16
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
export SLURM_CONF=$work/slurm.conf
munged --foreground --force --socket="$work/munge/socket" --key-file="$work/key/munge.key" \
	--pid-file="$work/munge/pid" --log-file="$work/munge/log" --seed-file="$work/munge/seed" >"$work/munged.log" 2>&1 &
daemons+=($!)
sleep 1
slurmctld -D -f "$SLURM_CONF" >"$work/slurmctld.out" 2>&1 &
daemons+=($!)
slurmd -D -f "$SLURM_CONF" >"$work/slurmd.out" 2>&1 &
daemons+=($!)
for ((i = 0; ; i++)); do
	[[ $(sinfo --noheader --format=%T 2>/dev/null) != idle ]] || break
	((i < 60)) || { echo "$0: Slurm does not start; see $work/*.log" >&2; exit 1; }
	sleep 0.5
done

# --- What is submitted: the real ssljax, and a stand-in that ends with a code, or with 75 once it gets SIGTERM,
# but for the task that it is told to
mkdir "$work/bin" "$work/stand-in"
cat >"$work/bin/ssljax" <<END
#!/usr/bin/env bash
exec "$python" -m ssljax.cli "\$@"
END
cat >"$work/stand-in/ssljax" <<'END'
#!/usr/bin/env bash
[[ $* == *serve* && $* != *"but $SLURM_PROCID "* ]] || exit "${@: -1}"
trap 'exit 75' TERM
sleep 600 &
wait
exit 75
END
chmod +x "$work"/bin/ssljax "$work"/stand-in/ssljax
export PYTHONPATH=$root JAX_PLATFORMS=cpu XLA_FLAGS="" JAX_COMPILATION_CACHE_DIR=$work/cache
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0.1 OMP_NUM_THREADS=1
cd "$work"

submit() { # NAME OPTIONS... SCRIPT ARGUMENTS...: prints the job's number
	sbatch --parsable --job-name="$1" "${@:2}"
}
field() { scontrol --oneliner show job "$1" | tr ' ' '\n' | sed -n "s/^$2=//p" | head -n 1; }
await() { # SECONDS COMMAND...: until it succeeds
	local end=$((SECONDS + $1))
	until "${@:2}"; do
		((SECONDS < end)) || return 1
		sleep 0.5
	done
}
is() { [[ " $3 " == *" $(field "$1" "$2") "* ]]; }
ended() { is "$1" JobState "COMPLETED FAILED CANCELLED TIMEOUT"; }

failures=0 patience=$((240 + ${EXPIRE:-10})) # seconds
check() { # WHAT COMMAND...
	if "${@:2}"; then echo "ok      $1"; else
		echo "FAILED  $1"
		failures=$((failures + 1))
	fi
}
expect() { # WHAT JOB PATTERN: of its state, its code and how often it was started again
	await $patience ended "$2" || true
	local found
	found="$(field "$2" JobState) $(field "$2" ExitCode) $(field "$2" Restarts)"
	# shellcheck disable=SC2053  # the right side is a pattern
	if [[ $found == $3 ]]; then check "$1" true; else
		check "$1: '$found' instead of '$3'" false
		tail -n 20 "$work"/*-"$2".log
	fi
}

started=$SECONDS
train=(--ntasks=2 "$root/launch/slurm.sbatch")
arguments=(--config "$root/configs/dora.py:smoke" --config.data.video="$work/data/street" --config.data.gap=0.2
	--config.epochs=120 --config.checkpoint.every=20)
export RESTARTS=1 # the limit

check "sbatch --test-only takes slurm.sbatch" sbatch --quiet --test-only "${train[@]}" --workdir x
check "sbatch --test-only takes slurm_prepare.sbatch" \
	sbatch --quiet --test-only --array=1-2 "$root/launch/slurm_prepare.sbatch" video x

with_stand_in() { PATH=$work/stand-in:$PATH submit "$@"; }
crashing=$(with_stand_in crashing "${train[@]}" --workdir x 3)
refused=$(with_stand_in refused "${train[@]}" --workdir x 2)
mixed=$(with_stand_in mixed "${train[@]}" --workdir x serve but 1 2)
timed=$(RESTARTS=0 with_stand_in timed --time=1 --signal=TERM@1 "${train[@]}" --workdir x serve)
cancelled=$(with_stand_in cancelled "${train[@]}" --workdir x serve)
export PATH=$work/bin:$PATH

# --- Preparation in two parts, twice
PYTHONPATH=$root/tests:$root "$python" -c "
from pathlib import Path
from videos import make_video
make_video(Path('street.mp4'), 500, gop=25)"
prepare=(--array=1-2 --cpus-per-task=1 --wait "$root/launch/slurm_prepare.sbatch" video street.mp4 --output data)
check "an array prepares a video" sbatch --quiet "${prepare[@]}"
check "its index is there" test -s data/street/index.json
# But for the plan of what is being prepared, which whoever comes last may leave to the next.
(cd data/street && find . -type f ! -name plan.json -exec sha256sum -- {} +) >sums
check "it is prepared again without an error" sbatch --quiet "${prepare[@]}"
check "which changes nothing" env -C data/street sha256sum --quiet --check --strict "$PWD/sums"

# --- Training
whole=$(submit whole "${train[@]}" "${arguments[@]}" --workdir whole)
await $patience is "$cancelled" JobState RUNNING
scancel "$cancelled"
expect "an undisturbed run ends" "$whole" "COMPLETED 0:0 0"
killed=$(RESTARTS=2 submit killed "${train[@]}" "${arguments[@]}" --workdir killed)
reached() { [[ $(sed -n '$s/.*"step": \([0-9]*\).*/\1/p' killed/metrics.jsonl 2>/dev/null) -ge $1 ]]; }
saved() { find killed/checkpoints -regex '.*/[0-9]+' 2>/dev/null | grep -q .; }
check "a checkpoint is there" await $patience saved
victim=$(scontrol listpids "$killed.0" | awk '$4 == 1 {print $1; exit}')
kill -KILL "$victim"
check "one of its tasks is killed, and it queues itself again" await $patience is "$killed" JobState PENDING
echo "        started again no sooner than $(field "$killed" StartTime); it is $(date --iso-8601=seconds)"
check "it starts again" await $patience is "$killed" Restarts 1
check "and goes on" await $patience reached 100
scancel --signal=TERM "$killed" # as Slurm does before the time is over
check "SIGTERM makes its tasks save and it queue itself again" await $patience is "$killed" JobState PENDING
expect "it starts again and ends" "$killed" "COMPLETED 0:0 2"
check "with the parameters of the undisturbed run, bit for bit" "$python" "$root/launch/test/same_bits.py" whole killed
echo "        its starts began at the updates $(sed 's/.*"step": \([0-9]*\).*/\1/' killed/starts.jsonl | paste -sd ' ')"
mistaken=$(submit mistaken "${train[@]}" "${arguments[@]}" --config.no_such_key=1 --workdir mistaken)

# --- A sweep of two runs, one of which is told that its time is nearly over
cat >ablation.py <<END
from ssljax.sweep import Sweep, grid

def sweep(budget="laptop"):
    common = {"data.gap": 0.2, "data.video": ("$work/data/street",), "epochs": 60, "evaluate.protocols": ()}
    return Sweep("$root/configs/dora.py:smoke", grid(**{"objective.objects": (1, 2)}), common, seeds=(0,))
END
sweep=("$python" -m ssljax.cli sweep ablation.py --workdir sweep --executor slurm --slurm time=30 cpus_per_task=1)
"${sweep[@]}" >sweep.log 2>&1 &
launched=$!
logged() { [[ -s sweep/$1/seed-0/metrics.jsonl ]]; }
number() { sed -n 's/.*"slurm": "\([0-9]*\)".*/\1/p' "sweep/$1/seed-0/job.json"; }
lines() { wc -l <"sweep/$1/seed-0/starts.jsonl"; }
check "a sweep submits its runs" await $patience logged objects=1
first=$(number objects=1)
kill -KILL "$launched"
wait "$launched" 2>/dev/null || true
scancel --signal=USR2 "$first"
check "a job of it that is to end saves and queues itself again" await $patience is "$first" JobState PENDING
check "the sweep, killed and started again, waits for its jobs" "${sweep[@]}"
check "the one has run in two parts" test "$(lines objects=1) $(field "$first" Restarts)" = "2 1"
check "the other in one" test "$(lines objects=2)" = 1
check "and nothing is done twice" "${sweep[@]}"
check "which the starts show" test "$(lines objects=1) $(lines objects=2)" = "2 1"

expect "bad input is not tried again" "$mistaken" "FAILED 2:0 0"
expect "nor is what a task refuses" "$refused" "FAILED 2:0 0"
expect "even where the other tasks, which would go on, are killed" "$mixed" "FAILED 2:0 0"
expect "a task that dies is tried again, so often and no more" "$crashing" "FAILED 3:0 1"
expect "SIGTERM reaches the tasks before the time is over" "$timed" "FAILED 75:0 0"
expect "a cancelled job does not come back" "$cancelled" "CANCELLED * 0"

echo "$0: $failures failed, $((SECONDS - started)) s"
((failures == 0))
