#!/usr/bin/env bash
# Test a cascade on several GPUs of this machine, or on several CPU processes where there is no GPU:
#
#   tools/dist_test.sh CONFIG CHECKPOINT|none PROCESSES [ARGUMENTS OF tools/test.py ...]
#
# Settings, as of mmdet's script: PORT (a free one), and for several machines NNODES, NODE_RANK and MASTER_ADDR.
set -euo pipefail
if [ $# -lt 3 ]; then
    sed -n '2,6p' "$0" | sed 's/^# \{0,1\}//' >&2
    exit 2
fi
config=$1 checkpoint=$2 processes=$3
shift 3
[ "$checkpoint" != none ] || checkpoint=
if [ -z "${PORT:-}${NNODES:-}" ]; then
    meet=(--rdzv_backend=c10d --rdzv_endpoint=127.0.0.1:0 --local_addr=127.0.0.1)
else
    meet=(--nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --master_addr="${MASTER_ADDR:-127.0.0.1}"
        --master_port="${PORT:-29500}")
fi
exec python -m torch.distributed.run "${meet[@]}" --nproc_per_node="$processes" \
    "$(dirname "$0")/test.py" "$config" ${checkpoint:+"$checkpoint"} --launcher pytorch "$@"
