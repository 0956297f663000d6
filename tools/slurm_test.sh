#!/usr/bin/env bash
# Test a cascade on the GPUs (or, where there are none, the CPUs) of a Slurm cluster:
#
#   tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT|none [ARGUMENTS OF tools/test.py ...]
#
# Settings: GPUS (8; the number of processes), GPUS_PER_NODE (at most 8), CPUS_PER_TASK (5), SRUN_ARGS. For CPUs set
# GPUS_PER_NODE=0 and TASKS_PER_NODE.
set -euo pipefail
if [ $# -lt 4 ]; then
    sed -n '2,7p' "$0" | sed 's/^# \{0,1\}//' >&2
    exit 2
fi
partition=$1 job=$2 config=$3 checkpoint=$4
shift 4
[ "$checkpoint" != none ] || checkpoint=
processes=${GPUS:-8}
per_node=${GPUS_PER_NODE:-$((processes < 8 ? processes : 8))}
gpus=()
[ "$per_node" = 0 ] || gpus=(--gres="gpu:$per_node")
# shellcheck disable=SC2086
exec srun -p "$partition" --job-name="$job" "${gpus[@]}" --ntasks="$processes" \
    --ntasks-per-node="${TASKS_PER_NODE:-$((per_node > 0 ? per_node : processes))}" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    python -u "$(dirname "$0")/test.py" "$config" ${checkpoint:+"$checkpoint"} --launcher slurm "$@"
