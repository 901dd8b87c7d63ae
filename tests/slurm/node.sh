#!/bin/sh
# node.sh NAME FOLDER: one pretended node: slurmd under its own hostname, /dev/shm and /etc/hosts.
#
# Called inside new UTS and mount namespaces (see cluster.py), so nothing of this reaches the
# machine.
set -eu
hostname "$1"
mount -t tmpfs tmpfs /dev/shm
mount --bind "$2/hosts" /etc/hosts
exec slurmd -D -f "$2/slurm.conf" -N "$1"
