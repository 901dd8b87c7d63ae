#!/bin/bash
# tests/slurm/install.sh: the packages that the Slurm tests need (Debian or Ubuntu, root or sudo).
#
# Slurm's daemons and clients, munge, and environment modules. Nothing is configured or left
# running: the tests start a cluster of their own in a scratch folder. Says in one line what is
# missing where that is not possible, and ends with 1; the tests are then skipped with this line.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin

missing() {
    local tool
    for tool in slurmctld slurmd sbatch srun munged unshare setpriv; do
        command -v "$tool" >/dev/null || echo "$tool"
    done
    [ -e /usr/share/modules/init/bash ] || echo environment-modules
}

# What no package brings: a node has a host name and mounts of its own, see cluster.py.
isolated() {
    local apart=(unshare --uts --mount)
    if [ "$(id -u)" != 0 ]; then apart+=(--map-current-user --keep-caps); fi
    "${apart[@]}" sh -c 'hostname n1 && mount -t tmpfs tmpfs /dev/shm' 2>/dev/null && return
    echo "namespaces with their own host name and mounts are not permitted on this machine" >&2
    exit 1
}

lacking=$(missing | tr '\n' ' ')
if [ -z "${lacking// /}" ]; then
    isolated
    exit
fi
as_root=()
if [ "$(id -u)" != 0 ]; then
    if ! sudo -n true 2>/dev/null; then
        echo "missing: ${lacking}(and packages can only be installed by root)" >&2
        exit 1
    fi
    as_root=(sudo -n)
fi
if ! command -v apt-get >/dev/null; then
    echo "missing: ${lacking}(and there is no apt-get here)" >&2
    exit 1
fi
# The packages start daemons after they are installed where an init system runs: refuse that.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
    "${as_root[@]}" chmod 755 "$policy"
    trap '"${as_root[@]}" rm -f "$policy"' EXIT
fi
packages=(slurmctld slurmd slurm-client munge environment-modules util-linux)
install=(env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends)
"${as_root[@]}" "${install[@]}" "${packages[@]}" >/dev/null 2>&1 || {
    "${as_root[@]}" apt-get update -qq >/dev/null 2>&1 || true
    "${as_root[@]}" "${install[@]}" "${packages[@]}" >/dev/null
}
lacking=$(missing | tr '\n' ' ')
if [ -n "${lacking// /}" ]; then
    echo "apt-get did not bring: $lacking" >&2
    exit 1
fi
isolated
