#!/usr/bin/env bash
# The main job on a fresh machine with Python 3.11 and pip: sets up an environment, makes the
# synthetic shapes set, trains a small kMaX-DeepLab and evaluates it on the way, exports it, predicts
# with it. Last line: PQ=<number> seconds=<number> images=<directory> report=<file>. Re-running starts
# the training afresh.
set -euo pipefail
cd "$(dirname "$0")/.."
started=$(date +%s)
source scripts/setup_environment.sh

work=${QUICKSTART_DIR:-work_dirs/quickstart}
config=configs/shapes/kmax_mobilenet_v3_small.textproto
rm -rf "$work"
mkdir -p "$work"
export SHAPES_TFRECORDS="$work/tfrecords"

echo '== 1/4 data'
python scripts/build_tfrecords.py --dataset=shapes --split=train --num_images=2000 --num_shards=4 \
  --output_dir="$SHAPES_TFRECORDS"
python scripts/build_tfrecords.py --dataset=shapes --split=val --num_images=100 --num_shards=2 \
  --output_dir="$SHAPES_TFRECORDS" --images_dir="$work/held_out"

echo '== 2/4 train and evaluate'
python -m deeplab2.trainer.train --config_file="$config" --mode=train_and_eval \
  --model_dir="$work/model" --report
run="$work/model/shapes_kmax_mobilenet_v3_small"
python scripts/plot_run.py --run="$run" --output="$work/curves.png"

echo '== 3/4 export'
python -m deeplab2.inference.export --config_file="$config" --checkpoint_path="$run" \
  --export_path="$work/exported"

echo '== 4/4 predict'
python -m deeplab2.inference.predict --model="$work/exported" --input="$work/held_out" \
  --output_dir="$work/predictions"

pq=$(python - "$run" <<'PY'
import glob, json, os, sys
newest = max(glob.glob(os.path.join(sys.argv[1], 'eval', 'metrics-*.json')), key=os.path.getmtime)
with open(newest) as file:
  print(f"{json.load(file)['PQ']:.2f}")
PY
)
echo "PQ=$pq seconds=$(($(date +%s) - started)) images=$work/predictions report=$run/report.html"
