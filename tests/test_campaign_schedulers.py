"""Schedulers behind stub commands: what is asked of them, and answers that are errors or none."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from hpcsamp.campaign import mending, stages, submit
from hpcsamp.campaign.points import Campaign
from hpcsamp.campaign.schedulers import SchedulerError, make
from hpcsamp.campaign.schedulers.base import clean
from hpcsamp.campaign.schedulers.usage import Used
from hpcsamp.campaign.selection import select
from hpcsamp.campaign.site import Site
from hpcsamp.campaign.status import Survey
from hpcsamp.campaign.store import CampaignState, JobRecord, Store, Submission
from hpcsamp.cli import campaign_watch
from hpcsamp.errors import HpcsampError, UsageError

# A PBS server in a folder: jobs.json holds the state of every job, as qstat would tell it.
QSUB = """
script = pathlib.Path(sys.argv[1]).read_text()
jobs = json.loads((here / "jobs.json").read_text())
number = 100 + len({j.split("[")[0].split(".")[0] for j in jobs})
array = re.search(r"^#PBS -J 0-(\\d+)", script, re.M)
identity = re.search(r"^#PBS -v HPCSAMP_JOB=(\\S+)", script, re.M)[1]
log = re.search(r"^#PBS -o (\\S+)", script, re.M)[1]
facts = {"job_state": "Q", "Job_Name": re.search(r"^#PBS -N (\\S+)", script, re.M)[1],
         "Variable_List": {"HPCSAMP_JOB": identity}, "Output_Path": f"node:{log}",
         "comment": "Not Running: Insufficient amount of resource: ncpus"}
if array:
    name = f"{number}[].srv"
    for i in range(int(array[1]) + 1):
        jobs[f"{number}[{i}].srv"] = facts
else:
    name = f"{number}.srv"
jobs[name] = facts
(here / "jobs.json").write_text(json.dumps(jobs))
print(name)
"""
QSTAT = """
jobs = json.loads((here / "jobs.json").read_text())
if "-Bf" in sys.argv:
    print(json.dumps({"Server": {"srv": {"max_array_size": 3, "default_queue": "workq"}}}))
elif "-Qf" in sys.argv:
    print(json.dumps({"Queue": {"workq": {"resources_max": {"walltime": "04:00:00"}}, "long": {}}}))
else:
    asked = [a for a in sys.argv[1:] if a[0].isdigit()]
    for a in asked:
        if a not in jobs:
            sys.exit(f"qstat: Unknown Job Id {a}")
    numbers = {a.split("[")[0].split(".")[0] for a in asked}
    told = {k: v for k, v in jobs.items() if k.split("[")[0].split(".")[0] in numbers}
    print(json.dumps({"Jobs": told}))
"""
QDEL = """
jobs = json.loads((here / "jobs.json").read_text())
numbers = {a.split("[")[0].split(".")[0] for a in sys.argv[1:]}
kept = {k: v for k, v in jobs.items() if k.split("[")[0].split(".")[0] not in numbers}
(here / "jobs.json").write_text(json.dumps(kept))
"""
QSELECT = """
jobs = json.loads((here / "jobs.json").read_text())
print("\\n".join(k for k, v in jobs.items() if v["Job_Name"] == sys.argv[2] and "[]" in k))
"""
SINFO = 'print("debug*|1:00:00|2\\nlong|infinite|1\\nshort|10:00|4")'
SCONTROL = 'print("MaxArraySize            = 4")'
SBATCH = """
with (here / "calls").open("a") as f:
    f.write(sys.argv[-1] + "\\n")
count = len((here / "calls").read_text().splitlines())
print(f"{40 + count};cluster")
"""

SWEEP = """
config = "base.toml"
[product]
seed = [1, 2, 3, 4, 5, 6, 7]
[resources]
time = "00:20:00"
[site]
name = "%s"
timeout = 5
"""


class Case:
    """A campaign and a folder of stub commands, which come first in PATH."""

    def __init__(self, folder: Path, site: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.file = folder / "sweep.toml"
        self.file.write_text(SWEEP % site)
        (folder / "base.toml").write_text('[data]\npath = "d"\n[model]\nname = "mlp"\n')
        self.bin = folder / "bin"
        self.bin.mkdir()
        (self.bin / "jobs.json").write_text("{}")
        monkeypatch.setenv("PATH", f"{self.bin}:{os.environ['PATH']}")

    def stub(self, name: str, code: str) -> None:
        """A command made of Python code."""
        head = "import json, pathlib, re, sys\nhere = pathlib.Path(__file__).parent\n"
        path = self.bin / name
        path.write_text(f"#!{sys.executable} -S\n{head}{code}\n")
        path.chmod(0o755)

    def add(self, text: str) -> None:
        self.file.write_text(self.file.read_text() + text)

    @property
    def campaign(self) -> Campaign:
        return Campaign(self.file)

    def counts(self) -> dict[str, int]:
        store = Store(self.campaign.folder)
        return dict(Survey(self.campaign, store.load()).counts())

    def submit(self) -> submit.Submitted:
        return submit.submit(self.campaign, ["missing"])

    def refused(self, kind: type[HpcsampError]) -> str:
        with pytest.raises(kind) as e:
            self.submit()
        assert "\n" not in str(e.value)
        return str(e.value)


@pytest.fixture
def pbs(tmp_path, monkeypatch):
    case = Case(tmp_path, "pbs", monkeypatch)
    for name, code in (("qsub", QSUB), ("qstat", QSTAT), ("qdel", QDEL), ("qselect", QSELECT)):
        case.stub(name, code)
    return case


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    case = Case(tmp_path, "slurm", monkeypatch)
    for name, code in (("sinfo", SINFO), ("scontrol", SCONTROL), ("sbatch", SBATCH)):
        case.stub(name, code)
    case.stub("squeue", "")
    case.stub("sacct", "sys.exit('Slurm accounting storage is disabled')")
    return case


# PBS --------------------------------------------------------------------------------------------


def test_pbs_arrays_from_submit_to_cancel(pbs):
    done = pbs.submit()
    # the server allows arrays of 3: three, three, and one that is an ordinary job
    assert done.jobs == ["100[].srv", "101[].srv", "102.srv"]
    scripts = sorted(f.name for f in done.folder.glob("job-*"))
    assert scripts == ["job-00.pbs", "job-01.pbs", "job-02.pbs"]
    assert pbs.counts() == {"queued": 7}
    assert pbs.submit().points == []
    jobs = json.loads((pbs.bin / "jobs.json").read_text())
    jobs["100[1].srv"] = {**jobs["100[1].srv"], "job_state": "R"}
    jobs["101[0].srv"] = {**jobs["101[0].srv"], "job_state": "X", "Exit_status": 271}
    jobs["102.srv"] = {**jobs["102.srv"], "job_state": "R"}
    (pbs.bin / "jobs.json").write_text(json.dumps(jobs))
    store = Store(pbs.campaign.folder)
    (store.marks / f"{pbs.campaign.points[3].name}.running").touch()
    survey = Survey(pbs.campaign, store.load())
    words = [s.word for s in survey.points]
    assert words == ["queued", "running", "queued", "interrupted", "queued", "queued", "running"]
    [why] = survey.reasons(survey.of("interrupted")).values()
    assert why == "exit status 271 (SIGTERM)"
    assert submit.cancel(pbs.campaign) == ["100[].srv", "101[].srv", "102.srv"]
    assert pbs.counts() == {"interrupted": 1, "missing": 6}  # and qstat has forgotten the jobs


def test_pbs_accounts_for_elements_that_were_started_once(pbs):
    pbs.submit()
    jobs = json.loads((pbs.bin / "jobs.json").read_text())
    use = {"walltime": "01:00:20", "cput": "00:50:10", "mem": "7kb"}
    jobs["100[1].srv"] |= {"job_state": "X", "run_count": 1, "resources_used": use}
    jobs["100[2].srv"] |= {"job_state": "X", "run_count": 2, "resources_used": use}
    jobs["102.srv"] |= {
        "job_state": "F",
        "resources_used": {"walltime": "00:00:07", "cput": "00:00:00"},
    }
    (pbs.bin / "jobs.json").write_text(json.dumps(jobs))
    used = make(pbs.campaign.site).used(["100[].srv", "102.srv"])
    assert used == {("100[].srv", 1): Used(3620.0, 3010.0), ("102.srv", 0): Used(7.0)}


def test_pbs_jobs_that_were_not_noted_are_found_again(pbs):
    pbs.submit()
    store = Store(pbs.campaign.folder)
    state = store.load()
    state.submissions[0].jobs[0].job = None
    store.save(state)
    assert pbs.submit().points == []
    assert store.load().submissions[0].jobs[0].job == "100[].srv"


def test_pbs_limits_of_queues(pbs):
    pbs.file.write_text(pbs.file.read_text().replace("00:20:00", "06:00:00"))
    message = pbs.refused(UsageError)
    assert "resources.time = 06:00:00: queue workq allows 04:00:00" in message
    pbs.add('partition = "long"\n')
    assert pbs.submit().jobs


@pytest.mark.parametrize("text", ["{", "[]", '{"Server": 3}'])
def test_pbs_answers_that_are_no_json(pbs, text):
    pbs.stub("qstat", f"print('{text}')")
    assert "qstat -Bf returned invalid JSON" in pbs.refused(SchedulerError)


def test_pbs_jobs_of_another_campaign_of_the_same_name_are_not_taken(pbs):
    pbs.submit()
    store = Store(pbs.campaign.folder)
    state = store.load()
    jobs = json.loads((pbs.bin / "jobs.json").read_text())
    theirs = {"Variable_List": {"HPCSAMP_JOB": "0" * 16}, "Output_Path": "n:/else/log"}
    (pbs.bin / "jobs.json").write_text(json.dumps({k: v | theirs for k, v in jobs.items()}))
    state.submissions[0].jobs[0].job = None
    store.save(state)
    assert pbs.counts() == {"queued": 4, "missing": 3}
    # without an identity, as a line of the header may have replaced the variables: by the log
    for log, found in (("n:/else/log", None), (None, "100[].srv")):
        bare = {"Variable_List": {}, **({"Output_Path": log} if log else {})}
        (pbs.bin / "jobs.json").write_text(json.dumps({k: v | bare for k, v in jobs.items()}))
        script = store.submission(1) / "job-00.pbs"
        assert make(pbs.campaign.site).find("sweep-0001-00", script, "1" * 16) == found


def test_pbs_states(pbs):
    """Unknown states count as running; the reason why a job waits is read."""
    pbs.submit()
    jobs = json.loads((pbs.bin / "jobs.json").read_text())
    for i, state in enumerate("EXZ"):
        jobs[f"100[{i}].srv"] = {**jobs[f"100[{i}].srv"], "job_state": state, "Exit_status": -29}
    (pbs.bin / "jobs.json").write_text(json.dumps(jobs))
    assert pbs.counts() == {"running": 2, "queued": 4, "missing": 1}
    scheduler = make(pbs.campaign.site)
    assert scheduler.ended(["100[].srv"]) == {("100[].srv", 1): "the time limit ended it"}
    survey = Survey(pbs.campaign, Store(pbs.campaign.folder).load())
    [why] = set(survey.reasons(survey.of("queued")).values())
    assert why == "Not Running: Insufficient amount of resource: ncpus"


# Slurm ------------------------------------------------------------------------------------------


def test_slurm_arrays_are_cut_at_its_limit(slurm):
    done = slurm.submit()
    assert done.jobs == ["41", "42"]  # of 4 and of 3
    calls = (slurm.bin / "calls").read_text().splitlines()
    assert calls == [str(done.folder / "job-00.sbatch"), str(done.folder / "job-01.sbatch")]
    assert "#SBATCH --array=0-3\n" in (done.folder / "job-00.sbatch").read_text()
    assert "#SBATCH --array=0-2\n" in (done.folder / "job-01.sbatch").read_text()


def test_slurm_states(slurm):
    slurm.submit()
    slurm.stub(
        "squeue",
        'print("41|0|RUNNING|None\\n41|1|PENDING|Priority\\n41|2|COMPLETING|x\\n7|0|RUNNING|x")',
    )
    assert slurm.counts() == {"running": 2, "queued": 1, "missing": 4}
    slurm.stub("sacct", 'print("41_2|TIMEOUT\\n41_3|CANCELLED by 0\\n41_[4-9]|PENDING")')
    ended = make(slurm.campaign.site).ended(["41"])
    assert ended == {("41", 2): "TIMEOUT", ("41", 3): "CANCELLED"}


ENDED = ["BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL",
         "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT"]  # fmt: skip


def test_every_state_of_slurm_that_is_no_end_keeps_a_point_from_being_submitted(slurm):
    """Also states of later versions, and those of a requeue."""
    slurm.submit()
    more = ["COMPLETING", "REVOKED", "RESIZING", "SUSPENDED", "STAGE_OUT", "REQUEUE_HOLD",
            "SPECIAL_EXIT", "EXPEDITING", "A_STATE_OF_2030"]  # fmt: skip
    for state in [*ENDED, *more]:
        slurm.stub("squeue", f'print("41|0|{state}|None")')
        assert len(make(slurm.campaign.site).look(["41"])) == (state in more), state


def test_slurm_forgets_jobs_one_by_one(slurm):
    """An error about one job does not hide that another runs."""
    slurm.submit()
    body = """
jobs = sys.argv[sys.argv.index("-j") + 1].split(",")
if "41" in jobs:
    sys.exit("slurm_load_jobs error: Invalid job id specified")
print("42|0|RUNNING|None")
"""
    slurm.stub("squeue", body)
    assert slurm.counts() == {"running": 1, "missing": 6}


def test_why_a_job_waits(slurm):
    slurm.submit()
    slurm.stub("squeue", 'print("41|0|PENDING|ReqNodeNotAvail, UnavailableNodes:n1|n2")')
    survey = Survey(slurm.campaign, Store(slurm.campaign.folder).load())
    [why] = survey.reasons(survey.of("queued")).values()
    assert why == "ReqNodeNotAvail, UnavailableNodes:n1|n2"


def test_slurm_jobs_of_another_campaign_of_the_same_name_are_not_taken(slurm):
    done = slurm.submit()
    store = Store(slurm.campaign.folder)
    state = store.load()
    own = state.submissions[0].jobs[0].identity
    script = (done.folder / "job-00.sbatch").read_text()
    assert f"#SBATCH --comment=hpcsamp:{own}\n" in script
    path = done.folder / "job-00.sbatch"
    find = make(slurm.campaign.site).find
    for command, comment, found in (
        ("/else/job-00.sbatch", f"hpcsamp:{own}", "41"),
        (path, "hpcsamp:0123456789abcdef", None),  # this folder was removed and used again
        ("/else/job-00.sbatch", "hpcsamp:0123456789abcdef", None),
        ("/else/job-00.sbatch", "", None),
        (path, "a comment of a header | line", "41"),
        (path, "(null)", "41"),  # of a former version
    ):
        slurm.stub("squeue", f'print("41|{command}|{comment}")')
        assert find("sweep-0001-00", path, own) == found, (command, comment)
    # status mends as well
    state.submissions[0].jobs[0].job = None
    store.save(state)
    body = f"""
if "--name" in sys.argv:
    print("41|{path}|hpcsamp:{own}")
else:
    print("41|0|PENDING|Priority")
"""
    slurm.stub("squeue", body)
    assert mending.load(slurm.campaign, ask_scheduler=False).submissions[0].jobs[0].job is None
    with store.lock():  # another command is writing: found, and not recorded
        assert mending.load(slurm.campaign).submissions[0].jobs[0].job == "41"
    assert store.load().submissions[0].jobs[0].job is None
    assert mending.load(slurm.campaign).submissions[0].jobs[0].job == "41"
    assert store.load().submissions[0].jobs[0].job == "41"


def test_several_partitions(slurm):
    slurm.file.write_text(slurm.file.read_text().replace("00:20:00", "00:50:00"))
    slurm.add('partition = "short,debug"\n')  # one that allows the time is enough
    assert slurm.submit().jobs
    slurm.file.write_text(slurm.file.read_text().replace("short,debug", "short,none"))
    slurm.file.write_text(slurm.file.read_text().replace("6, 7]", "6, 7, 8]"))
    assert "there is no partition none" in slurm.refused(UsageError)


@pytest.mark.parametrize(
    ("resources", "word"),
    [("cores = 9", "9 CPUs, but the nodes of partition debug have at most 8"),
     ("ranks = 4\ncores = 3", "4 ranks_per_node with 3 cores each need 12 CPUs"),
     ("memory = '5G'", "resources.memory = 5120 MiB: the nodes of partition debug have at most"),
     ("nodes = 3", "resources.nodes = 3: partition debug has 2")],
)  # fmt: skip
def test_more_than_a_node_has_is_refused(slurm, resources, word, capsys):
    from hpcsamp.cli import app

    slurm.stub("sinfo", 'print("debug*|1:00:00|2|8+|4000+\\nlarge|1:00:00|9|64|9000")')
    text = slurm.file.read_text().replace("[resources]", f"[resources]\n{resources}")
    slurm.file.write_text(text)
    assert word in slurm.refused(UsageError)
    with pytest.raises(UsageError, match="partition debug"):
        app(["campaign", "plan", str(slurm.file)], standalone_mode=False)
    slurm.add('partition = "large"\n')
    app(["campaign", "plan", str(slurm.file)], standalone_mode=False)
    assert "7 points" in capsys.readouterr().out


def test_at_once_holds_for_the_campaign(slurm):
    """Arrays, of which each has the limit, follow each other and what still waits or runs."""
    slurm.stub("sbatch", SBATCH.replace("sys.argv[-1]", '" ".join(sys.argv[2:-1])'))
    slurm.add("at_once = 2\n")
    assert slurm.submit().jobs == ["41", "42"]
    assert (slurm.bin / "calls").read_text().splitlines() == ["", "--dependency=afterany:41"]
    slurm.stub("squeue", 'print("\\n".join(f"42|{i}|PENDING|Dependency" for i in range(3)))')
    slurm.submit()
    assert (slurm.bin / "calls").read_text().splitlines()[2:] == ["--dependency=afterany:42"]
    slurm.add('header = ["#SBATCH --dependency=afterok:7"]\n')
    slurm.file.write_text(slurm.file.read_text().replace("6, 7]", "6, 7, 8]"))
    assert "arrays of the campaign wait for each other" in slurm.refused(UsageError)


@pytest.mark.parametrize(
    ("time", "words"),
    [
        ("02:00:00", ["partition debug allows 01:00:00", "long without limit, short 00:10:00"]),
        ("10-00", ["resources.time = 240:00:00", "partition debug"]),
    ],
)
def test_a_time_that_the_partition_does_not_allow(slurm, time, words):
    slurm.file.write_text(slurm.file.read_text().replace("00:20:00", time))
    message = slurm.refused(UsageError)
    for word in words:
        assert word in message
    assert not (slurm.bin / "calls").exists()
    slurm.add('partition = "long"\n')
    assert slurm.submit().jobs == ["41", "42"]


def test_a_time_that_no_partition_allows(slurm):
    slurm.stub("sinfo", 'print("debug*|1:00:00|2\\nshort|10:00|4")')
    slurm.file.write_text(slurm.file.read_text().replace("00:20:00", "02:00:00"))
    message = slurm.refused(UsageError)
    assert "no partition allows this time limit (debug 01:00:00, short 00:10:00)" in message


# Errors, and no answer ---------------------------------------------------------------------------

BROKEN = {
    "an error": ("sys.exit('sbatch: error: Batch job submission failed:\\n  QOSMaxSubmit')",
                 "sbatch failed with exit code 1: sbatch: error: Batch job submission failed: QOS"),
    "silence": ("import time; time.sleep(60)", "sbatch did not answer within 0.5 s"),
    "nonsense": ("print('moo')", "sbatch returned 'moo' in place of a job number"),
    "nothing": ("", "sbatch returned '' in place of a job number"),
    "a crash": ("import os; os.kill(os.getpid(), 11)", "sbatch failed with exit code -11: no"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_an_sbatch_that_fails(slurm, kind):
    code, words = BROKEN[kind]
    if kind == "silence":
        slurm.file.write_text(slurm.file.read_text().replace("timeout = 5", "timeout = 0.5"))
        for name in ("sinfo", "scontrol", "squeue"):  # Python would take much of that time
            (slurm.bin / name).write_text("#!/bin/sh\n")
    slurm.stub("sbatch", code)
    assert words in slurm.refused(SchedulerError)
    assert Store(slurm.campaign.folder).load().submissions == []
    slurm.stub("sbatch", SBATCH)
    assert slurm.submit().jobs  # as if nothing had been


def test_an_sbatch_that_fails_in_between(slurm):
    slurm.stub("sbatch", SBATCH + "if count == 2: sys.exit('no more')")
    message = slurm.refused(SchedulerError)
    assert "1 of 2 arrays were submitted, then: sbatch failed with exit code 1: no more" in message
    [submission] = Store(slurm.campaign.folder).load().submissions
    assert [r.job for r in submission.jobs] == ["41"]
    slurm.stub("squeue", 'print("\\n".join(f"41|{i}|PENDING" for i in range(4)))')
    assert slurm.counts() == {"queued": 4, "missing": 3}
    slurm.stub("sbatch", SBATCH)
    assert len(slurm.submit().points) == 3


@pytest.mark.parametrize("name", ["sinfo", "scontrol", "sbatch"])
def test_commands_that_are_not_there(slurm, name, monkeypatch):
    (slurm.bin / name).unlink()
    monkeypatch.setenv("PATH", str(slurm.bin))
    message = slurm.refused(SchedulerError)
    assert message == f"{name} was not found: is this a machine with slurm?"


def test_scripts_are_rendered_without_the_scheduler(slurm, monkeypatch, capsys):
    from hpcsamp.cli import app

    for name in ("sinfo", "scontrol", "sbatch", "squeue"):
        (slurm.bin / name).unlink(missing_ok=True)
    monkeypatch.setenv("PATH", str(slurm.bin))
    app(["campaign", "render", str(slurm.file)], standalone_mode=False)
    told = capsys.readouterr()
    assert "7 points" in told.out
    assert (
        "was not found: is this a machine with slurm?; submit checks the limits of the scheduler"
        in told.err
    )
    scripts = list(slurm.campaign.folder.rglob("*.sbatch"))
    assert scripts, list(slurm.campaign.folder.rglob("*"))


@pytest.mark.parametrize(
    ("command", "told"), [("status", "7 points: 7 missing"), ("collect", "0 rows")]
)
def test_a_scheduler_that_does_not_answer_is_told(slurm, hpcsamp, command, told):
    slurm.submit()
    before = (slurm.campaign.folder / "campaign.json").read_text()
    slurm.stub("squeue", "sys.exit('slurm_load_jobs error: Unable to contact slurm controller')")
    done = hpcsamp(1, "campaign", command, slurm.file)
    assert done.code == 1
    assert len(done.err.splitlines()) == 1
    assert "squeue failed with exit code 1: slurm_load_jobs error: Unable to contact" in done.err
    assert "--offline" in done.err
    done = hpcsamp(1, "campaign", command, slurm.file, "--offline")
    assert told in done.out
    # what may be waiting is not submitted again
    assert "squeue failed" in slurm.refused(SchedulerError)
    assert (slurm.campaign.folder / "campaign.json").read_text() == before


def test_the_environment_does_not_change_a_submission():
    given = {
        "SBATCH_PARTITION": "x",
        "SQUEUE_USERS": "me",
        "SCANCEL_USER": "me",
        "OMPI_COMM_WORLD_RANK": "0",
        "PATH": "p",
        "SLURM_CONF": "c",
    }
    assert clean(given) == {"PATH": "p", "SLURM_CONF": "c"}


def test_a_program_that_is_no_program(tmp_path, monkeypatch):
    (tmp_path / "qstat").write_text("not a program")
    (tmp_path / "qstat").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SchedulerError, match="qstat could not be started"):
        make(Site(scheduler="pbs")).limits()


# Watching --------------------------------------------------------------------------------------

STAGES = """
[stage.predict]
commands = ["true"]
results = ["a.txt"]
[stage.report]
every = true
commands = ["true"]
results = ["b.txt"]
"""

SQUEUE = """
with (here / "asked").open("a") as f:
    f.write(sys.argv[sys.argv.index("-j") + 1] + "\\n")
count = len((here / "asked").read_text().splitlines())
states = {"41": "R"} if count < 3 else {}
print("\\n".join(f"{j}|{i}|RUNNING|None" for j in states for i in range(4)))
"""


def test_a_watch_of_all_stages_asks_the_scheduler_once_a_refresh(tmp_path, monkeypatch, capsys):
    case = Case(tmp_path, "slurm", monkeypatch)
    case.add(STAGES)
    made = case.campaign
    followers = stages.of(made)
    for number, one in enumerate([made, *followers.values()]):
        store = Store(one.folder)
        folder = store.submission(1)
        folder.mkdir(parents=True)
        (folder / "points.tsv").write_text("".join(f"{p.name}\n" for p in one.points))
        record = JobRecord(
            script="job-00.sbatch", table="points.tsv", sha256="", count=len(one.points),
            shape="", job=str(41 + number),
        )  # fmt: skip
        store.save(
            CampaignState(submissions=[Submission(number=1, scheduler="slurm", jobs=[record])])
        )
    case.stub("squeue", SQUEUE)
    refreshes = []
    clock = SimpleNamespace(sleep=refreshes.append, strftime=lambda form: "now")
    monkeypatch.setattr(campaign_watch, "time", clock)  # subprocess has the real one
    campaign_watch.watch(made, select(), followers, 7.0)
    assert refreshes == [7.0, 7.0]
    assert (case.bin / "asked").read_text().splitlines() == ["41,42,43"] * 3
    shown = capsys.readouterr().out
    assert "train: 3 missing, 4 running; predict: 7 missing; report: 1 missing" in shown
    assert "train: 7 missing; predict" in shown
    assert shown.endswith("no point is waiting or running\n")
