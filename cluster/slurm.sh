#!/usr/bin/env bash
# One Ray cluster inside one Slurm allocation, a study on it, and everything away at the end.
#   LARESA_HOME=/path/all/nodes/share sbatch --nodes=4 --gpus-per-node=4 cluster/slurm.sh ablation --dataset cifar100 ...
# Submitted again with the same arguments it continues; at the time limit Slurm puts it back in the queue by itself.
#SBATCH --job-name=laresa
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
set -euo pipefail
: "${LARESA_HOME:?set it to a folder that all nodes share}"
: "${SLURM_JOB_NODELIST:?run it with sbatch}"
shared=$LARESA_HOME

# sbatch runs a copy of this file: the checkout is where it was called.
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
LARESA_HEAD=$(getent ahostsv4 "${nodes[0]}" | awk 'NR == 1 {print $1}')
export LARESA_HEAD
bash "${SLURM_SUBMIT_DIR:-.}/cluster/node.sh" "$shared" head  # this is the first node; homes are shared
# shellcheck source=cluster/env.sh
. "$shared/code/cluster/env.sh"

trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT
# The notice before the time limit: trials end their epoch and keep it; those that take longer than a minute are cut off.
notice() {
  if [ -n "${driver:-}" ]; then
    kill -TERM "$driver" 2>/dev/null || true
    (sleep 60; kill -TERM "$driver" 2>/dev/null) &
    wait "$driver" || true
  fi
  scontrol requeue "$SLURM_JOB_ID"
}
trap notice USR1

on() {  # a long-running step on one node, with all it has
  srun --nodes=1 --ntasks=1 --overlap --nodelist="$1" bash -c ". '$shared/code/cluster/env.sh' && exec $2" &
}
port=$((20000 + SLURM_JOB_ID % 20000))
on "${nodes[0]}" "ray start --head --block --port=$port --node-ip-address=$LARESA_HEAD"
for node in "${nodes[@]:1}"; do
  on "$node" "ray start --block --address=$LARESA_HEAD:$port"
done
# A server outlives the allocation: site.sh should name one; without, it runs here while the job does.
if [ "$MLFLOW_TRACKING_URI" = "http://$LARESA_HEAD:5000" ]; then laresa server --detach --host "$LARESA_HEAD"; fi

export RAY_ADDRESS=$LARESA_HEAD:$port
python - "${#nodes[@]}" <<'WAIT'
import sys, time, ray
deadline = time.monotonic() + 180
while True:
    try:
        ray.init(log_to_driver=False, logging_level="ERROR")
        if sum(node["Alive"] for node in ray.nodes()) >= int(sys.argv[1]):
            break
        ray.shutdown()
    except ConnectionError as error:
        print(error, file=sys.stderr)
    if time.monotonic() > deadline:
        sys.exit("not every node joined within 180 s: see the lines above")
    time.sleep(2)
WAIT
laresa run "$@" &
driver=$!
wait "$driver"
