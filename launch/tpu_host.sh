#!/usr/bin/env bash
# bash ssljax/launch/tpu_host.sh install|start|look|stop: what launch/tpu_vm.sh does on each host of a slice.
set -euo pipefail
script=$(realpath "$0")
cd

# Gathers of weights behind the work: without these flags the compiler makes them wait on some chips.
: "${LIBTPU_INIT_ARGS:=--xla_tpu_enable_async_collective_fusion=true \
--xla_tpu_enable_async_collective_fusion_fuse_all_gather=true \
--xla_tpu_enable_async_collective_fusion_multiple_steps=true \
--xla_tpu_overlap_compute_collective_tc=true --xla_enable_async_all_gather=true}"
export LIBTPU_INIT_ARGS

alive() { kill -0 "$(cat ssljax.pid)" 2>/dev/null; }

install() { # SHARE
	if [[ ${1:-} ]] && ! mountpoint --quiet /share; then
		sudo apt-get install -y -qq nfs-common
		sudo mkdir -p /share
		sudo mount -t nfs "$1" /share
	fi
	python3 -m pip install --quiet --user uv
	local python=$HOME/environment/bin/python uv=$HOME/.local/bin/uv
	"$uv" venv --quiet --allow-existing --python 3.12 ~/environment
	"$uv" pip install --quiet --python "$python" --requirement ssljax/requirements/tpu.txt
	"$uv" pip install --quiet --python "$python" --no-deps ./ssljax
}

start() { # RESTARTS ARGUMENTS...
	! alive || return 0
	rm -f ssljax.code ssljax.pid
	local number
	number=$(curl --silent --fail --header 'Metadata-Flavor: Google' \
		http://metadata.google.internal/computeMetadata/v1/instance/attributes/agent-worker-number)
	export PATH=$HOME/environment/bin:$PATH RESTARTS=$1 PROCESS=$number
	nohup bash "$script" run "${@:2}" >>ssljax.out 2>&1 </dev/null &
	until [[ -s ssljax.pid ]]; do sleep 0.1; done
}

run() { # in the background
	local code=0
	ssljax/launch/local.sh 1 --distributed "$@" &
	echo $! >ssljax.pid
	wait $! || code=$?
	echo "$code" >ssljax.code
}

look() {
	local code seconds
	for seconds in 0 2; do # its code is written a moment after its end
		sleep "$seconds"
		code=$(cat ssljax.code 2>/dev/null) || true
		[[ -z $code ]] || { echo "ssljax: $code" && return; }
		! alive || { echo "ssljax: running" && return; }
	done
	echo "ssljax: lost" # the host was started anew
}

stop() { ! alive || kill -TERM "$(cat ssljax.pid)"; }

"$@"
