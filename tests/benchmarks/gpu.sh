#!/usr/bin/env bash
# What only a GPU can show, in under eight minutes: recorded numbers first, then speed, with weights of noise.
#
#     bash tests/benchmarks/gpu.sh [FOLDER]     # of the JSON that docs/performance.md is made of
set -uo pipefail
cd "$(dirname "$0")/../.."
out=${1:-gpu-results}
mkdir -p "$out"
limit=470 # seconds at which the last measurement has ended or is cut off
SECONDS=0

python -c 'import torch; assert torch.cuda.is_available(), "no CUDA device"; print(torch.cuda.get_device_name())' || exit 1
timeout 150 python -m pytest tests/test_gpu*.py -q --tb=short 2>&1 | tee "$out/goldens.txt"
goldens=${PIPESTATUS[0]}
echo "goldens: exit $goldens after $SECONDS s"

timeout 60 python tests/benchmarks/deformable.py 2>&1 | tee "$out/deformable.txt"
echo "deformable attention: exit ${PIPESTATUS[0]} after $SECONDS s"

measure() { # NAME ARGUMENTS...
  local most=${most:-100} # seconds
  if ((SECONDS + most > limit)); then
    echo "$1: left out after $SECONDS s"
    return
  fi
  timeout "$most" python -m dvis_cli bench --json "${@:2}" > "$out/$1.json" 2> "$out/$1.txt"
  local code=$?
  echo "$1: exit $code after $SECONDS s"
  ((code == 0)) || tail -3 "$out/$1.txt"
}

measure r50-720p --model offline-r50 --size 720x1280 --against transformers
measure swinl-720p --model offline-swinl --size 720x1280
measure videomt-720p --model videomt-vitl-vipseg --size 720x1280
most=150 measure r50-720p-compiled --model offline-r50 --size 720x1280 --compile auto
measure r50-1080p --model offline-r50 --size 1080x1920
measure r50-720p-fp32 --model offline-r50 --size 720x1280 --precision fp32 --frames 60
measure swinl-1080p --model offline-swinl --size 1080x1920
measure videomt-1080p --model videomt-vitl-vipseg --size 1080x1920
if ((SECONDS + 90 <= limit)); then
  timeout 90 python -m pytest tests/test_gpu.py -m slow -k "compiled and r50" -q --tb=short 2>&1 | tee "$out/goldens-compiled.txt"
  echo "goldens, compiled: exit ${PIPESTATUS[0]} after $SECONDS s"
fi

python - "$out" <<'PYTHON'
import json, sys
from pathlib import Path

for path in sorted(Path(sys.argv[1]).glob("*.json")):
    try:
        one = json.loads(path.read_text())
    except ValueError:
        continue
    use, compiled = one["device"], one["network"].get("compiled")
    print(f"{path.stem}: network {one['network']['fps']:.1f}, files {one['files']['fps']:.1f} frames/s, "
          f"busy {use['busy_share']:.0%}, {use['waits']:.1f} waits, {use['copied_bytes'] / 1e6:.1f} MB a frame"
          + (f", compiled {compiled['times']:.2f} times as fast after {compiled['after_seconds']:.0f} s" if compiled else ""))
PYTHON
exit "$goldens"
