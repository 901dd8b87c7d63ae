#!/bin/bash
# docs/build.sh [--site]: build the documentation into site/, after running the examples of its pages.
#
#     bash docs/build.sh            examples of every page, tutorials, references, links
#     bash docs/build.sh --site     without the examples, which are tests (tests/test_pages.py)
#
# Every warning is an error: a broken link, a docstring that is missing or cannot be read, a tutorial
# that fails. The environment is that of envs/local.sh with the extra `docs`.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=envs/local.sh
source envs/local.sh
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} PYTHONHASHSEED=0
started=$SECONDS

if ! python -c 'import furo, myst_nb, sphinx' 2>/dev/null; then
    echo "docs: installing the extra docs"
    mapfile -t wanted < <(python -c '
import configparser
extras = configparser.ConfigParser()
extras.read("setup.cfg")
print(extras["options.extras_require"]["docs"].strip())')
    python -m uv pip install --quiet "${wanted[@]}" || python -m pip install --quiet "${wanted[@]}"
fi
if [ "${1:-}" != --site ]; then
    python -m pytest -p no:cacheprovider tests/test_pages.py tests/test_readme.py
fi
rm -rf site build/docs
python -m sphinx --fail-on-warning --keep-going --quiet -b html -d build/docs/read docs build/docs/html
mv build/docs/html site
python docs/check.py site
echo "docs: site/index.html after $((SECONDS - started)) s"
