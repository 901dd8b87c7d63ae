#!/bin/bash
# docs/build.sh [--site]: build the documentation into site/, after running the examples of its pages.
#
#     bash docs/build.sh            examples of every page, tutorials, references, links
#     bash docs/build.sh --site     without the examples, which are tests (tests/test_pages.py)
#
# Every warning is an error: a broken link, a docstring that is missing or cannot be read, a tutorial
# that fails. Nothing is fetched: the environment is that of envs/local.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=envs/local.sh
source envs/local.sh
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} PYTHONHASHSEED=0
started=$SECONDS

if [ "${1:-}" != --site ]; then
    python -m pytest -p no:cacheprovider tests/test_pages.py tests/test_readme.py
fi
rm -rf site build/docs
python -m sphinx --fail-on-warning --keep-going --quiet -b html -d build/docs/read docs build/docs/html
mv build/docs/html site
python docs/check.py site
echo "docs: site/index.html after $((SECONDS - started)) s"
