#!/usr/bin/env bash
# The paper's dataset and search, top to bottom, on phantom archives of the same layouts.
#
#   runs/bimcv_r.sh [FOLDER] [PATIENTS]      default: ./bimcv_r 300; about 15 minutes on two cores
#
# For the real thing, leave out the first step of each half and give the archives' own paths.
# Run again, each step goes on where it stopped.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(realpath -m "${1:-bimcv_r}")
patients=${2:-300}
PATH="$PWD/.venv/bin:$PATH"
translate=()
if command -v apertium >/dev/null; then
  translate=(--translate apertium) # or chat, the paper's way: see docs/how-to/curate.md
fi

echo "== A. From the hospital's raw tree: CT, CR and DX mixed, Spanish reports, every known defect"
medfinder phantom "$out/raw" --archive bimcv --n "$patients"
medfinder curate bimcv "$out/raw/bimcv" "$out/studies" "${translate[@]}" \
  --set copy=nifti --set hide_names=true --set 'body_parts=["chest","torax"]'
medfinder review status "$out/studies"
medfinder export "$out/studies" "$out/hub" --format hub --volumes none
medfinder export "$out/studies" "$out/table" --format bimcv-r --volumes none

python benchmarks/curation.py --judge "$out/raw" "$out/studies" # planted against found

echo "== B. From the published table and its shards"
medfinder phantom "$out/published" --archive bimcv_r --n "$patients"
table="$out/published/bimcv_r/meta/BIMCV-R.csv"
medfinder curate bimcv-r "$table" "$out/as-published" --volumes "$out/published/bimcv_r" \
  --split published --no-card
medfinder curate bimcv-r "$table" "$out/clean" --volumes "$out/published/bimcv_r" --no-card
python benchmarks/curation.py --judge "$out/published" "$out/clean"
# The volumes have been read: this only makes anew the English that failed its checks.
medfinder curate bimcv-r "$table" "$out/clean" --volumes "$out/published/bimcv_r" "${translate[@]}"
medfinder card --diff "$out/as-published" "$out/clean" --out "$out/diff" >/dev/null

echo "== C. Text to CT, CT to CT, keyword to CT"
medfinder index "$out/studies" "$out/idx" --encoder medfinder
medfinder search "$out/idx" "left pleural effusion" --k 3
medfinder search "$out/idx" "derrame pleural izquierdo" --k 3
medfinder search "$out/idx" --keyword cardiomegaly --k 3
medfinder search "$out/idx" --volume "$(find "$out/studies/volumes" -name '*.nii.gz' | sort | head -1)" --k 3

echo "Cards: $out/studies/card.html $out/clean/card.html; what changed: $out/diff"
echo "Review what is doubted: medfinder serve $out/idx --review $out/studies"
