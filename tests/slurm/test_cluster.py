"""The pretended cluster is a real one."""

from __future__ import annotations


def test_two_nodes_apart(slurm, tmp_path):
    script = tmp_path / "job.sh"
    script.write_text(
        "#!/bin/bash\nset -e\n"
        f"srun bash -c 'echo $SLURM_PROCID > /dev/shm/mine; sleep 0.5; "
        f'echo "$(hostname) $SLURM_PROCID $(cat /dev/shm/mine)" > {tmp_path}/rank-$SLURM_PROCID\'\n'
    )
    job = slurm.sbatch(script, "-N2", "-n2", f"--output={tmp_path}/out")
    assert slurm.wait(job, 30) == "COMPLETED", (tmp_path / "out").read_text()
    # each node has shared memory of its own
    assert [(tmp_path / f"rank-{r}").read_text() for r in (0, 1)] == ["n1 0 0\n", "n2 1 1\n"]
    assert slurm.processes() == []
