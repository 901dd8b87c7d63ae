"""A real Slurm of pretended nodes on this machine: started in a scratch folder, stopped after.

Every node is a slurmd with its own hostname, /dev/shm and ports; munged, slurmctld and the slurmds
are children of the test run and die with it. Nothing outside of the folder is written.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from patience import patient

HERE = Path(__file__).parent
ROOT = HERE.parent.parent

#: States that a job does not leave by itself.
ENDED = {
    "COMPLETED",
    "FAILED",
    "TIMEOUT",
    "CANCELLED",
    "NODE_FAIL",
    "BOOT_FAIL",
    "OUT_OF_MEMORY",
    "DEADLINE",
}

CONFIGURATION = """
ClusterName=hpcsamp
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/socket/munge,cred_expire=5
CredType=cred/munge
SlurmctldPort={port}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/log/slurmctld
StateSaveLocation={folder}/state
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdLogFile={folder}/log/slurmd-%n
SlurmdSpoolDir={folder}/spool-%n
TmpFS={folder}/tmp-%n
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=pmix
SwitchType=switch/none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,sched_min_interval=0,batch_sched_delay=0,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=1
KillWait=5
MinJobAge=600
InactiveLimit=0
JobRequeue=1
SlurmctldTimeout=60
SlurmdTimeout=120
MaxArraySize=10001
PartitionName=debug Nodes=ALL Default=YES MaxTime=60 DefaultTime=10 State=UP
"""


class ClusterError(Exception):
    """The cluster, or a command of it, does not do what it must."""


class Cluster:
    """A Slurm of nodes ``n1``, ``n2`` ..., for one test run.

    Parameters
    ----------
    nodes
        How many nodes to pretend.
    cpus
        CPUs that each node claims to have, whatever the machine has.
    """

    def __init__(self, nodes: int = 2, cpus: int = 2) -> None:
        self.nodes = [f"n{i + 1}" for i in range(nodes)]
        self.cpus = cpus
        # /tmp, because a path of a socket has at most 108 characters
        self.folder = Path(tempfile.mkdtemp(prefix="hpcsamp-slurm-", dir="/tmp"))
        self._daemons: list[subprocess.Popen[bytes]] = []

    # Starting and stopping --------------------------------------------------------------------

    def start(self) -> None:
        """Start the daemons and wait until every node is idle.

        Raises
        ------
        ClusterError
            With the ends of the daemons' logs.
        """
        folder = self.folder
        folder.chmod(0o755)
        for name in ("log", "state", "socket", *(f"spool-{n}" for n in self.nodes)):
            (folder / name).mkdir(mode=0o755)
        for name in self.nodes:
            (folder / f"tmp-{name}").mkdir()
            (folder / f"tmp-{name}").chmod(0o1777)
        key = folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(os.urandom(128))
        host = platform.node().split(".")[0]
        names = "".join(f"127.0.0.1 {n}\n" for n in self.nodes)
        (folder / "hosts").write_text(f"127.0.0.1 localhost {host}\n{names}")
        ports = free_ports(1 + len(self.nodes))
        lines = CONFIGURATION.format(
            host=host,
            user=getpass.getuser(),
            folder=folder,
            port=ports[0],
        )
        for name, port in zip(self.nodes, ports[1:], strict=True):
            lines += (
                f"NodeName={name} NodeHostname={name} NodeAddr=127.0.0.1 Port={port} "
                f"CPUs={self.cpus} RealMemory=4000 State=UNKNOWN\n"
            )
        self.configuration.write_text(lines)
        try:
            self._daemon(
                "munged",
                "--foreground",
                f"--socket={folder}/socket/munge",
                f"--key-file={key}",
                f"--pid-file={folder}/munged.pid",
                f"--log-file={folder}/log/munged",
                f"--seed-file={folder}/munge.seed",
                "--num-threads=2",
            )
            _until(lambda: (folder / "socket" / "munge").exists(), 10)
            self._daemon("slurmctld", "-D", "-f", str(self.configuration))
            # not root: the same user inside a user namespace, which may mount and name its host
            apart = ["unshare", "--uts", "--mount"]
            if os.getuid() != 0:
                apart += ["--map-current-user", "--keep-caps"]
            for name in self.nodes:
                self._daemon(*apart, "sh", str(HERE / "node.sh"), name, str(folder))
            _until(lambda: self.states() == ["idle"] * len(self.nodes), 30)
        except Exception as e:
            log = "".join(
                f"--- {f.name}\n{f.read_text(errors='replace')[-1500:]}\n"
                for f in sorted((folder / "log").iterdir())
            )
            self.stop()
            raise ClusterError(f"Slurm did not start: {e}\n{log}") from e

    def _daemon(self, *command: str) -> None:
        log = (self.folder / "log" / f"{len(self._daemons)}-{command[0]}.out").open("wb")
        with log:
            self._daemons.append(
                subprocess.Popen(
                    ["setpriv", "--pdeathsig", "TERM", *command],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self.environment(),
                    start_new_session=True,
                )
            )

    def stop(self) -> None:
        """End every job and every daemon, and remove the folder."""
        if self._daemons and all(d.poll() is None for d in self._daemons):
            try:
                self.command("scancel", "--user", getpass.getuser(), timeout=5)
                _until(lambda: not self.command("squeue", "-h", timeout=5).strip(), 15)
            except (ClusterError, subprocess.TimeoutExpired):
                pass
        for daemon in reversed(self._daemons):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self._daemons.clear()
        for process in self.processes():  # what a job has left
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    # Using it ---------------------------------------------------------------------------------

    @property
    def configuration(self) -> Path:
        """slurm.conf."""
        return self.folder / "slurm.conf"

    def environment(self, **more: str) -> dict[str, str]:
        """A clean environment for a command: without the caller's virtual environment."""
        kept = ("HOME", "USER", "LOGNAME", "LANG", "TMPDIR", "PYTHONPATH")
        return {
            **{k: os.environ[k] for k in kept if k in os.environ},
            "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "SLURM_CONF": str(self.configuration),
            "MODULEPATH": f"{HERE / 'modulefiles'}:{ROOT / 'envs' / 'modulefiles'}",
            "HPCSAMP_VENV": sys.prefix,
            "HPCSAMP_MODULES": "openmpi/debian hdf5/debian-openmpi hpcsamp",
            **more,
        }

    def command(self, *arguments: str | Path, timeout: float = 20, **more: str) -> str:
        """Standard output of a command, e.g. ``scontrol``; keywords are environment variables.

        Raises
        ------
        ClusterError
            If it fails.
        """
        done = subprocess.run(
            list(map(str, arguments)),
            capture_output=True,
            text=True,
            timeout=patient(timeout),
            env=self.environment(**more),
            cwd=ROOT,
        )
        if done.returncode:
            raise ClusterError(f"{arguments}: {done.returncode}: {done.stderr or done.stdout}")
        return done.stdout

    def sbatch(self, script: Path, *options: str, arguments: Sequence[str | Path] = (),
               **environment: str) -> int:  # fmt: skip
        """Submit a script from the root of the checkout; returns the job's number.

        Parameters
        ----------
        script
            The batch script.
        options
            Options of sbatch.
        arguments
            Arguments of the script.
        environment
            Variables beside the clean environment.
        """
        out = self.command("sbatch", "--parsable", *options, script, *arguments, **environment)
        return int(out.split(";")[0])

    def job(self, number: int) -> dict[str, str]:
        """What ``scontrol show job`` says of a job."""
        return dict(
            re.findall(r"(\S+?)=(\S*)", self.command("scontrol", "-o", "show", "job", str(number)))
        )

    def state(self, number: int) -> str:
        """State of a job, e.g. ``RUNNING``."""
        return self.job(number)["JobState"]

    def wait(self, number: int, timeout: float = 90) -> str:
        """Wait until a job has ended for good; returns its state."""
        return self.until(
            lambda: (s := self.state(number)) in ENDED and s, timeout, f"end of job {number}"
        )

    def until(self, condition: Callable[[], object], timeout: float, what: str = "") -> object:
        """Wait until a condition holds; returns its value.

        Raises
        ------
        ClusterError
            If it does not come true in that many seconds.
        """
        try:
            return _until(condition, timeout)
        except TimeoutError as e:
            queue = self.command("squeue", "-o", "%i %j %T %r %N")
            raise ClusterError(f"waited {timeout} s in vain for {what}\n{queue}") from e

    def states(self) -> list[str]:
        """State of every node, e.g. ``["idle", "mix"]``."""
        try:
            return self.command("sinfo", "-h", "-N", "-o", "%t", timeout=5).split()
        except (ClusterError, subprocess.TimeoutExpired):
            return []

    def processes(self, word: str = "") -> list[int]:
        """Processes of jobs of this cluster, those with ``word`` in their command line."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                variables = (entry / "environ").read_bytes().split(b"\0")
                text = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:  # it has ended, or is another user's
                continue
            ours = f"SLURM_CONF={self.configuration}".encode() in variables
            if ours and word in text and any(v.startswith(b"SLURM_JOB_ID=") for v in variables):
                found.append(int(entry.name))
        return found


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nobody uses now."""
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def _until(condition: Callable[[], object], timeout: float) -> object:
    end = time.monotonic() + patient(timeout)
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise TimeoutError(f"not so after {timeout} s")
        time.sleep(0.1)
