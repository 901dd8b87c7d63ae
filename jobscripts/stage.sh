#!/bin/bash
# jobscripts/stage.sh FROM TO: copy a dataset folder to this node's own disk and verify the copy.
#
# TO is created only if every shard was copied and every checksum is correct; an existing TO is kept.
# Exits with 1 and a one-line message if there is no space or a checksum differs.
set -euo pipefail
from=$1 to=$2
part=$to.part-$(hostname)-$$ # unique, in case several nodes share the disk
fail() { printf 'hpcsamp: %s: %s\n' "$(hostname)" "$*" >&2; rm -rf "$part"; exit 1; }

[ -e "$from/manifest.json" ] || fail "$from is not a dataset: it has no manifest.json"
[ ! -e "$to/manifest.json" ] || exit 0
mkdir -p "$(dirname "$to")" 2>/dev/null || fail "cannot create $(dirname "$to")"
need=$(du -skL "$from" | cut -f 1) free=$(df -Pk "$(dirname "$to")" | awk 'NR == 2 { print $4 }')
[ "$need" -lt "$free" ] || fail "$from has $need KiB, $(dirname "$to") has room for $free KiB"
cp -rL "$from" "$part" || fail "cannot copy $from to $to"
# Every node verifies its whole copy alone, not as one of the ranks that the launcher started.
unset "${!SLURM_@}" "${!PMI_@}" "${!PMIX_@}" "${!PALS_@}" "${!OMPI_COMM_WORLD_@}" "${!OPAL_@}"
told=$(hpcsamp inspect "$part" --verify 2>&1) || fail "the copy in $to is not complete: ${told##*$'\n'}"
mv -T "$part" "$to" 2>/dev/null || { [ -e "$to/manifest.json" ] && rm -rf "$part"; }
