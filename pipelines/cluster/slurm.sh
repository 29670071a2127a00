#!/bin/bash
# A build under Slurm: a Ray node on each machine of the allocation, and the build on the first.
#   sbatch --nodes 8 pipelines/cluster/slurm.sh --recipe pipelines/lvis.yaml --out /shared/shards/lvis
# All words after the script go to `pics-data build`. Photos, annotations and --out lie in folders that all machines
# share, or in an object store. Run out of time? Submit the same again: whole shards are kept.
#SBATCH --job-name=pics-data-build
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --requeue
set -euo pipefail

# Without the last, a node that is told to end waits 30 s for work that is done.
export RAY_AUTH_MODE=disabled RAY_USAGE_STATS_ENABLED=0 RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0
port=${RAY_PORT:-6379}
nodes=($(scontrol show hostnames "$SLURM_JOB_NODELIST"))
head=${nodes[0]}
address=$(srun --nodes=1 --ntasks=1 -w "$head" hostname --ip-address | awk '{print $1}')

srun --nodes=1 --ntasks=1 --overlap -w "$head" \
  ray start --head --node-ip-address="$address" --port="$port" --num-cpus="$SLURM_CPUS_PER_TASK" --block &
until ray status --address "$address:$port" > /dev/null 2>&1; do sleep 1; done
if [ "${#nodes[@]}" -gt 1 ]; then
  others=$(IFS=,; echo "${nodes[*]:1}")
  srun --nodes=$((${#nodes[@]} - 1)) --ntasks=$((${#nodes[@]} - 1)) --overlap -w "$others" \
    ray start --address="$address:$port" --num-cpus="$SLURM_CPUS_PER_TASK" --block &
fi

status=0
srun --nodes=1 --ntasks=1 --overlap -w "$head" pics-data build "$@" --address "$address:$port" || status=$?
kill $(jobs -p) 2> /dev/null || true
wait
exit "$status"
