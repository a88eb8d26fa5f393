"""Schedules from Python and from relion_pipeliner, and all other options of that program."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from relion_py.pipeline import PipelineError, Project, Status, cli, jobstar

from .conftest import external, write_script

pytestmark = pytest.mark.timeout(120)


def pipeliner(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run relion_pipeliner in a project."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "relion_py.pipeline.cli", *arguments],
        cwd=root,
        capture_output=True,
        text=True,
    )


@pytest.mark.req("S1", "G7")
def test_scheduled_jobs_run_in_order(project: Project) -> None:
    first = project.schedule("relion.external", external(project))
    second = project.schedule("relion.external", external(project, in_coords=first + "picked.star"))
    assert project.process(first).status == Status.SCHEDULED and project.note(first) == ""
    assert project.graph.downstream(first) == [second]
    done = pipeliner(project.root, "--schedule", "night", "--sec_wait_after", "0", "--RunJobs", f"{first} {second}")
    assert done.returncode == 0, done.stderr
    project.refresh()
    assert [p.status for p in project.graph.processes.values()] == [Status.SUCCEEDED] * 2
    log = (project.root / "pipeline_night.log").read_text()
    assert log.index(f"Executing {first}") < log.index(f"Executing {second}") < log.index("All jobs have finished")
    assert not list(project.root.glob("RUNNING_PIPELINER_*"))


@pytest.mark.req("S1")
def test_repeats_and_waits(project: Project) -> None:
    job = project.schedule("relion.external", external(project), alias="again")
    began = time.monotonic()
    project.run_scheduled(["External/again"], "loop", 3, wait_minutes=0.01, seconds_after=0, background=False)
    assert time.monotonic() - began >= 2 * 0.6
    assert project.note(job).count("Executing new job") == 3
    assert project.process(job).status == Status.SUCCEEDED


@pytest.mark.req("S1", "G13")
def test_a_schedule_in_the_background_is_stopped(project: Project) -> None:
    job = project.schedule("relion.external", external(project))
    project.run_scheduled([job], "loop", 1000, seconds_after=0)
    with pytest.raises(PipelineError, match="already"):
        for _ in range(200):
            time.sleep(0.1)
            if project.schedules():
                project.run_scheduled([job], "loop")
    assert project.schedules() == ["loop"]
    end = time.monotonic() + 40
    while project.note(job).count("Executing new job") < 2:
        assert time.monotonic() < end
        time.sleep(0.1)
    project.stop_scheduled("loop")
    log = project.root / "pipeline_loop.log"
    while "was removed, so the schedule stops" not in log.read_text():
        assert time.monotonic() < end
        time.sleep(0.1)
    assert project.schedules() == []
    project.wait(job, 20)


def test_a_schedule_stops_at_a_failure(project: Project) -> None:
    write_script(project.root / "bad.py", "#!/bin/sh\nexit 1\n")
    bad = project.schedule("relion.external", external(project, "./bad.py"))
    good = project.schedule("relion.external", external(project))
    done = pipeliner(project.root, "--sec_wait_after", "0", "--RunJobs", f"{bad} {good}")
    assert done.returncode == 1 and f"{bad} failed" in done.stderr
    project.refresh()
    assert project.process(bad).status == Status.FAILED and project.process(good).status == Status.SCHEDULED


def test_a_schedule_waits_for_inputs(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relion_py.pipeline.scheduler._INPUT_POLL", 0.1)
    job = project.schedule("relion.external", external(project, in_mic="later.star"))
    with subprocess.Popen(["sh", "-c", "sleep 0.5; echo data_ > later.star"], cwd=project.root):
        project.run_scheduled([job], seconds_after=0, background=False)
    assert project.process(job).status == Status.SUCCEEDED
    assert "waits for its input later.star" in (project.root / "pipeline_default.log").read_text()


def test_adding_jobs_from_the_command_line(project: Project) -> None:
    options = "fn_exe == ./good.py;in_mic == mics.star;Number of threads: == 2"
    done = pipeliner(project.root, "--addJob", "relion.external", "--addJobOptions", options, "--setJobAlias", "picks")
    assert done.returncode == 0, done.stderr
    job = done.stdout.strip()
    project.refresh()
    assert project.process(job).alias == "External/picks/" and project.process(job).status == Status.SCHEDULED
    assert project.job_values(job)["nr_threads"] == "2"
    done = pipeliner(project.root, "--addJobFromStar", f"{job}job.star", "--addJobOptions", "param1_label == x")
    second = done.stdout.strip()
    project.refresh()
    assert second == "External/job002/" and project.job_values(second)["param1_label"] == "x"
    assert project.draft("relion.external")["param1_label"] == "x", "the next draft begins where this one ended"
    wrong = pipeliner(project.root, "--addJob", "relion.external", "--addJobOptions", "colour == blue")
    assert wrong.returncode == 1 and "no option 'colour'" in wrong.stderr


def test_editing_job_files(project: Project) -> None:
    job = project.schedule("relion.external", external(project))
    path = project.directory(job) / "job.star"
    before = path.read_text()
    other = project.root / "other.star"
    done = pipeliner(
        project.root,
        *(
            "--editJob",
            f"{job}job.star",
            "--editJobOut",
            "other.star",
            "--editOption",
            "nr_threads",
            "--editValue",
            "-4",
        ),
    )
    assert done.returncode == 0, done.stderr
    assert path.read_text() == before and jobstar.read(other).values["nr_threads"] == "-4"
    assert pipeliner(project.root, "--editJob", job, "--editOption", "do_queue", "--editValue", "true").returncode == 0
    assert jobstar.read(path).values["do_queue"] == "Yes"
    assert pipeliner(project.root, "--editJob", job, "--editOption", "nonsense").returncode == 1


def test_checking_completion_and_cleaning(project: Project) -> None:
    job = project.run("relion.external", external(project))
    while not (project.directory(job) / "RELION_JOB_EXIT_SUCCESS").exists():
        time.sleep(0.05)
    time.sleep(0.5)
    assert pipeliner(project.root, "--check_job_completion").returncode == 0
    assert Project.open(project.root).process(job).status == Status.SUCCEEDED
    done = pipeliner(project.root, "--gentle_clean", "1")
    assert done.returncode == 0 and "Moved 0 files" in done.stdout
    (project.directory(job) / "NO_HARSH_CLEAN").touch()
    assert "is protected" in pipeliner(project.root, "--harsh_clean", "1").stderr
    assert "no job number 7" in pipeliner(project.root, "--harsh_clean", "7").stderr


def test_check_command_touches_nothing(project: Project) -> None:
    values = external(project, in_coords="no such.star")
    jobstar.write(project.root / "job.star", jobstar.JobStar("relion.external", values))
    before = {p: p.stat().st_mtime_ns for p in project.root.rglob("*")}
    done = pipeliner(project.root, "--check_command", "job.star", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["commands"] == [
        [
            "./good.py",
            "--o",
            "External/job001/",
            "--in_mics",
            "mics.star",
            "--in_coords",
            "no such.star",
            "--j",
            "1",
        ]
    ]
    assert {"path": "mics.star", "type": "MicrographGroupMetadata.star.relion"} in told["input_nodes"]
    assert [problem["key"] for problem in told["problems"]] == ["in_coords"]
    assert "'no such.star'" in pipeliner(project.root, "--check_command", "job.star").stdout
    assert {p: p.stat().st_mtime_ns for p in project.root.rglob("*")} == before
    jobstar.write(project.root / "empty.star", jobstar.JobStar("relion.external", {}))
    done = pipeliner(project.root, "--check_command", "empty.star", "--json")
    assert done.returncode == 1 and json.loads(done.stdout)["error"]


def test_every_option_of_the_reference_is_there(shared: Path) -> None:
    groups = json.loads((shared / "reference/programs.json").read_text())["relion_pipeliner"]["groups"]
    for options in groups.values():
        for option in options:
            ours = cli.COMMAND_LINE.options[option["option"]]
            assert ours.is_flag == (option["kind"] == "flag")
            assert ours.is_flag or ours.default == option["default"]


def test_mistakes_are_sentences(project: Project) -> None:
    assert pipeliner(project.root).returncode == 1
    for arguments in (
        ["--repeat"],
        ["--RunJobs", "External/job099/"],
        ["--repeat", "many", "--RunJobs", "x"],
        ["--nonsense"],
    ):
        done = pipeliner(project.root, *arguments)
        assert done.returncode == 1 and "ERROR: " in done.stderr and "Traceback" not in done.stderr
    assert "WARNING: --nonsense" in pipeliner(project.root, "--nonsense", "--check_job_completion").stderr


QUEUE_TEMPLATE = """#!/bin/bash
#SBATCH --job-name=XXXnameXXX
#SBATCH --error=XXXerrfileXXX
#SBATCH --output=XXXoutfileXXX
#SBATCH --partition=XXXqueueXXX
#SBATCH --ntasks=XXXmpinodesXXX --cpus-per-task=XXXthreadsXXX
# cores XXXcoresXXX dedicated XXXdedicatedXXX nodes XXXnodesXXX extra XXXextra1XXX
XXXcommandXXX
"""


@pytest.fixture
def fake_queue(project: Project, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A queue of shell scripts: sbatch runs the script in the background, squeue and scancel know it."""
    directory = project.root.parent / "queue"
    directory.mkdir()
    write_script(
        directory / "sbatch",
        f'#!/bin/bash\n[ -e {directory}/closed ] && {{ echo "queue is closed" >&2; exit 1; }}\n'
        'out=$(sed -n "s/#SBATCH --output=//p" "$1")\nsetsid bash "$1" >> "$out" 2>&1 < /dev/null &\n'
        f'echo $! > {directory}/pid\necho "Submitted batch job $!"\n',
    )
    write_script(directory / "squeue", '#!/bin/bash\nkill -0 "${@: -1}" 2>/dev/null && echo "${@: -1}"\nexit 0\n')
    write_script(directory / "scancel", '#!/bin/bash\nkill -KILL -- "-$1"\n')
    (project.root / "template.sh").write_text(QUEUE_TEMPLATE)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    monkeypatch.setattr("relion_py.pipeline.status.QUEUE_INTERVAL", 0.1)
    return directory


def queued(project: Project, script: str = "./good.py", **values: str) -> dict[str, str]:
    return external(
        project,
        script,
        **{
            "do_queue": "Yes",
            "qsub": "sbatch",
            "qsubscript": "template.sh",
            "queuename": "gpu",
            "nr_threads": "3",
            "min_dedicated": "2",
            **values,
        },
    )


def test_submission_fills_the_template(project: Project, fake_queue: Path) -> None:
    job = project.run("relion.external", queued(project, queuename="$(touch hacked) 'q'", qsub_extra1="a b"))
    assert project.wait(job, 30) == Status.SUCCEEDED
    script = (project.directory(job) / "run_submit.script").read_text()
    assert f"#SBATCH --job-name={job}\n#SBATCH --error={job}run.err\n#SBATCH --output={job}run.out\n" in script
    assert "--ntasks=1 --cpus-per-task=3" in script and "# cores 3 dedicated 2 nodes 2 extra 'a b'\n" in script
    assert "'$(touch hacked) '\"'\"'q'\"'\"''" in script
    assert f"./good.py --o {job} --in_mics mics.star --j 3\n" in script
    assert "arguments:" in project.log_paths(job)[0].read_text()
    assert not (project.root / "hacked").exists()


def test_a_queued_job_that_vanishes_has_failed(project: Project, fake_queue: Path) -> None:
    write_script(project.root / "slow.py", "#!/bin/sh\nexec sleep 600\n")
    job = project.run("relion.external", queued(project, "./slow.py"))
    project.refresh()
    assert project.process(job).status == Status.RUNNING
    pid = int((fake_queue / "pid").read_text())
    os.killpg(pid, 9)
    assert project.wait(job, 30) == Status.FAILED
    assert f"the queue does not have its job {pid} any more" in project.log_paths(job)[1].read_text()


@pytest.mark.req("J2")
def test_abort_cancels_in_the_queue(project: Project, fake_queue: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relion_py.pipeline.status.ORPHAN_GRACE", 0.5)
    write_script(project.root / "slow.py", "#!/bin/sh\nexec sleep 600\n")
    job = project.run("relion.external", queued(project, "./slow.py"))
    project.abort(job)
    assert project.wait(job, 30) == Status.ABORTED


def test_what_a_queue_refuses(project: Project, fake_queue: Path) -> None:
    with pytest.raises(PipelineError, match="cannot be read"):
        project.run("relion.external", queued(project, qsubscript="no.sh"))
    (project.root / "empty.sh").write_text("#!/bin/sh\n")
    with pytest.raises(PipelineError, match="no line with XXXcommandXXX"):
        project.run("relion.external", queued(project, qsubscript="empty.sh"))
    with pytest.raises(PipelineError):
        project.run("relion.external", queued(project, queuename="a\ntouch hacked"))
    project.refresh()
    assert not project.graph.processes and project.graph.job_counter == 1
    (fake_queue / "closed").touch()
    with pytest.raises(PipelineError, match="queue is closed"):
        project.run("relion.external", queued(project))
    assert [p.status for p in project.graph.processes.values()] == [Status.FAILED]
    with pytest.raises(PipelineError, match="no_such_qsub was not found"):
        project.run("relion.external", queued(project, qsub="no_such_qsub"))
