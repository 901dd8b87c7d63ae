"""Commands that only record how they were called, for scripts of machines that are not here."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from patience import patient

ROOT = Path(__file__).parent.parent

#: Variables of a job whose values a script decides.
SHOWN = (
    "OMP_NUM_THREADS|NCCL_|FI_|MPICH_|CUDA_VIS|ROCR_|HDF5_USE|SRUN_|SLURM_CPU_BIND|HPCSAMP_LOCAL"
)

LAUNCHER = f"""#!/bin/bash
if [ "${{1:-}}" = --mpi=list ]; then echo "none pmi2 pmix"; exit; fi
echo "$(basename "$0") $*" >> "$STUB_LOG"
env | grep -E '^({SHOWN})' | sort | sed 's/^/    /' >> "$STUB_LOG"
if [ -n "${{STUB_STALL:-}}" ]; then printf '%s' "$STUB_TOLD" > "$STUB_STALL"; fi
exit "${{STUB_CODE:-0}}"
"""
RECORD = """#!/bin/bash
echo "$(basename "$0") $*" >> "$STUB_LOG"
"""
SCONTROL = """#!/bin/bash
case "$*" in
    *"show node"*) echo "NodeName=x CPUTot=256 CoresPerSocket=64 Sockets=2 ThreadsPerCore=2" ;;
    *"show job"*)
        echo "JobId=77 JobState=${STUB_STATE:-RUNNING} Reason=None EndTime=2030-01-02T03:04:05" \
            "ExcNodeList=${STUB_EXCLUDED:-(null)} NumNodes=2" ;;
    *) echo "scontrol $*" >> "$STUB_LOG" ;;
esac
"""
QSTAT = """#!/bin/bash
cat <<'T'
Job Id: 88.pbs
    Job_Name = mine
    queue = prod
    Account_Name = acct
    Resource_List.filesystems = home:eagle
    Resource_List.select = 2:ncpus=64:mpiprocs=4:system=
	polaris
    Resource_List.walltime = 01:30:00
T
"""


@dataclass
class Site:
    """A pretended login or compute node: ``site.run("bash", SCRIPT)``."""

    folder: Path
    variables: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.log = self.folder / "log"
        self.bin = self.folder / "bin"
        self.bin.mkdir(parents=True)
        for name in ("srun", "mpirun", "mpiexec"):
            self.stub(name, LAUNCHER)
        for name in ("qsub", "sleep"):
            self.stub(name, RECORD)
        self.stub("nproc", "#!/bin/bash\necho 64\n")
        self.stub("scontrol", SCONTROL)
        self.stub("qstat", QSTAT)

    def stub(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def slurm(self) -> None:
        """Be in an allocation of 2 nodes x 4 tasks x 16 CPUs."""
        self.variables |= {
            "SLURM_JOB_ID": "77",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_NTASKS": "8",
            "SLURM_CPUS_PER_TASK": "16",
            "SLURM_JOB_CPUS_PER_NODE": "64(x2)",
            "SLURM_JOB_NODELIST": "n[1-2]",
            "SLURM_SUBMIT_DIR": str(ROOT),
        }

    def pbs(self) -> None:
        """Be in a PBS job of 2 nodes x 4 ranks x 16 CPUs."""
        nodes = self.folder / "nodes"
        nodes.write_text("a\n" * 4 + "b\n" * 4)
        self.variables |= {
            "PBS_JOBID": "88.pbs",
            "PBS_JOBNAME": "mine",
            "PBS_NODEFILE": str(nodes),
            "PBS_O_WORKDIR": str(ROOT),
            "NCPUS": "64",
            "OMP_NUM_THREADS": "16",
        }

    def run(self, *command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command there; ``module`` is a shell function that records, too."""
        environment = {
            "PATH": f"{self.bin}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.folder),
            "USER": "me",
            "STUB_LOG": str(self.log),
            "HPCSAMP_VENV": sys.prefix,
            "BASH_FUNC_module%%": '() {  echo "module $*" >> "$STUB_LOG"\n}',
            **self.variables,
            **variables,
        }
        return subprocess.run(
            list(map(str, command)),
            capture_output=True,
            text=True,
            timeout=patient(60),
            env=environment,
            cwd=ROOT,
        )

    def calls(self) -> list[str]:
        """What was called, in order."""
        text = self.log.read_text() if self.log.exists() else ""
        return text.replace(str(ROOT), "CHECKOUT").replace(str(self.folder), "SITE").splitlines()


def matches_record(name: str, calls: list[str]) -> None:
    """Compare with ``tests/recorded/NAME``; with HPCSAMP_RECORD=1 write that instead."""
    file = Path(__file__).parent / "recorded" / name
    text = "".join(line + "\n" for line in calls)
    if os.environ.get("HPCSAMP_RECORD"):
        file.write_text(text)
    assert text == file.read_text()
