#!/bin/bash
# jobscripts/quickstart.sh: install, train a Bayesian vision transformer and write its report.
#
# Sets up the environment, converts scikit-learn's handwritten digits to HDF5 shards, trains with
# S = 16 weight samples shared by 4 MPI ranks, evaluates on held-out digits and writes a report.
# Settings: RANKS (4), OUT (runs/quickstart), and those of envs/local.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=envs/local.sh
source envs/local.sh

ranks=${RANKS:-4}
out=${OUT:-runs/quickstart}
started=$SECONDS

if [ ! -e data/digits/manifest.json ]; then
    hpcsamp ingest digits --out data/digits
fi
if [ -e "$out/config.toml" ]; then rm -rf "$out"; fi # an earlier quickstart
mpirun -n "$ranks" hpcsamp train vit-digits --output "$out"
mpirun -n "$ranks" hpcsamp evaluate "$out" --split test
hpcsamp report "$out"
echo "quickstart: $((SECONDS - started)) s on $ranks ranks; the pictures are in $out/report, open $out/report/index.html"
