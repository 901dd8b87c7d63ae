# shellcheck shell=bash
# envs/local.sh: a working hpcsamp environment on a Debian/Ubuntu, conda or module machine.
#
#     source envs/local.sh
#
# Idempotent. The first time it installs missing packages and builds Horovod and parallel h5py, which
# takes a few minutes; later it only checks a stamp. Settings, all optional:
#
#   HPCSAMP_CACHE        where wheels are kept             (default ${XDG_CACHE_HOME:-~/.cache}/hpcsamp)
#   HPCSAMP_VENV         the virtual environment           (default .venv in the checkout)
#   HPCSAMP_PYTHON       the Python to use                 (default python3, 3.11 or newer)
#   HPCSAMP_TORCH        torch version                     (default 2.13.0)
#   HPCSAMP_TORCHVISION  torchvision version, pairs torch  (default 0.28.0)
#   HPCSAMP_TORCH_INDEX  extra package index for torch, e.g. one that serves CPU builds
#   HPCSAMP_HOROVOD      1 build Horovod, 0 leave it out   (default 1)
#   HDF5_DIR             a parallel HDF5 installation      (default: searched for)

# shellcheck source=envs/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh" && hpcsamp_environment && hpcsamp_one_machine
