"""ReFrame check: jobscripts/acceptance on the nodes of a partition.

reframe -c envs/reframe -r --system=SYSTEM:PARTITION -S dataset=/shared/digits -S site=perlmutter

The dataset is a folder of ``hpcsamp ingest digits``, the site a file of ``envs/`` that was sourced
before on a login node. ReFrame 4.10.4 ran it on its generic system, with the local scheduler, two ranks
and the check ``invariance`` (``-S site=local -S num_tasks=2 -S checks=invariance``); on no centre yet.
"""

from pathlib import Path

import reframe as rfm
import reframe.utility.sanity as sn
from reframe.core.backends import getlauncher
from reframe.core.builtins import performance_function, run_before, sanity_function, variable

ROOT = Path(__file__).resolve().parents[2]


@rfm.simple_test
class hpcsamp_acceptance(rfm.RunOnlyRegressionTest):
    """Doctor, invariance, transports, feed, checkpoint and scaling on two nodes."""

    descr = "hpcsamp: results of all grids and transports agree, and stopped runs go on"
    valid_systems = ["*"]
    valid_prog_environs = ["*"]
    sourcesdir = None
    num_tasks = 4
    num_tasks_per_node = 2
    time_limit = "30m"

    dataset = variable(str, value="")
    site = variable(str, value="modules")
    checks = variable(str, value="doctor invariance transports feed checkpoint scaling")
    steps = variable(int, value=200)

    @run_before("run")
    def command(self):
        """Run the script itself once; it starts the ranks."""
        self.skip_if(not self.dataset, "set the dataset: -S dataset=FOLDER")
        self.executable = "bash"
        script = ROOT / "jobscripts" / "acceptance" / "run.sbatch"
        self.executable_opts = [str(script), "acceptance", self.dataset]
        self.env_vars = {
            "HPCSAMP_ROOT": str(ROOT),
            "HPCSAMP_SITE": self.site,
            "HPCSAMP_CHECKS": f"'{self.checks}'",
            "HPCSAMP_STEPS": str(self.steps),
        }
        if self.current_partition.scheduler.registered_name == "local":
            self.env_vars["RANKS"] = str(self.num_tasks)
        self.job.launcher = getlauncher("local")()
        self.keep_files = ["acceptance/index.html", "acceptance/results.tsv"]

    @sanity_function
    def all_passed(self):
        """Every check has a line that says pass."""
        table = "acceptance/results.tsv"
        return sn.all(sn.assert_found(rf"^{c}\tpass\t", table) for c in self.checks.split())

    @performance_function("s")
    def checks_took(self):
        """Seconds of all checks together."""
        return sn.sum(sn.extractall(r"\t(\d+)\t", "acceptance/results.tsv", 1, int))
