"""The grid on SLURM: a cluster of one node, started for the test, where `slurm-wlm` and the plugin are installed."""

import getpass
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from musicrec_kit import runs

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "squeue", "srun", "scontrol")
PLACES = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])

CONFIG = """
ClusterName=test
SlurmctldHost=localhost
SlurmctldPort={control}
SlurmdPort={node}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SchedulerParameters=sched_interval=1,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={host} NodeAddr=localhost CPUs={cores} RealMemory=12000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=60 State=UP
"""


def _free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("localhost", 0))
        return int(opened.getsockname()[1])


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Give the environment in which `sbatch` reaches a cluster of one node, or skip."""
    if lacking := [name for name in PROGRAMS if shutil.which(name, path=PLACES) is None]:
        pytest.skip(f"no {', '.join(lacking)}: Debian's package slurm-wlm is not installed")
    if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        pytest.skip("the extra `slurm` is not installed")
    folder = tmp_path / "slurm"
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    user, host = getpass.getuser(), socket.gethostname().split(".")[0]
    values = {"control": _free_port(), "node": _free_port(), "user": user, "host": host, "cores": os.cpu_count()}
    (folder / "slurm.conf").write_text(CONFIG.format(folder=folder, **values))
    environment = {**os.environ, "PATH": PLACES, "SLURM_CONF": str(folder / "slurm.conf")}
    # on a cluster the configuration is in /etc; the plugin hands no SLURM_CONF on to the `srun` inside a job
    inside = folder / "bin" / "srun"
    inside.parent.mkdir()
    real = shutil.which("srun", path=PLACES)
    inside.write_text(f'#!/bin/sh\nSLURM_CONF={environment["SLURM_CONF"]} exec {real} "$@"\n')
    inside.chmod(0o755)
    environment["PATH"] = f"{inside.parent}{os.pathsep}{PLACES}"
    started = [[name, "-D", "-f", environment["SLURM_CONF"]] for name in ("slurmctld", "slurmd")]
    with (folder / "daemons.log").open("w") as said:
        daemons = [subprocess.Popen(words, env=environment, stdout=said, stderr=said) for words in started]
        try:
            _wait_until_idle(environment, folder)
            yield environment
        finally:
            for daemon in reversed(daemons):
                daemon.terminate()
                daemon.wait(30)


def _wait_until_idle(environment: dict[str, str], folder: Path) -> None:
    words = ["sinfo", "-h", "-o", "%T"]
    for _ in range(60):
        asked = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        if asked.stdout.strip() == "idle":
            return
        time.sleep(1)
    logs = "\n".join(path.read_text() for path in folder.glob("*.log"))
    pytest.fail(f"the cluster did not start: {logs[-3000:]}")


@pytest.mark.slow
def test_a_grid_runs_on_slurm(cluster: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "two.yaml"
    file.write_text("datasets: [demo_tiny]\nsize: smoke\naxes: {row: {a: {method: markov}, b: {method: popularity}}}\n")
    words = ["grid", str(file), "--runs", str(tmp_path / "runs")]
    words += ["--executor", "slurm", "--jobs", "2", "--threads", "1"]
    environment = {**cluster, "SNAKEMAKE_PROFILE": str(_profile(tmp_path))}
    done = subprocess.run(
        [sys.executable, "-m", "musicrec_kit", *words], env=environment, capture_output=True, text=True, check=False
    )
    folder = tmp_path / "runs" / ".grid" / "two"
    assert done.returncode == 0, done.stderr + (folder / "snakemake.log").read_text()[-3000:]
    table = runs.pd.read_csv(folder / "summary.csv")
    assert list(table["state"]) == ["done", "done"]
    assert (folder / "snakemake.log").read_text().count("has been submitted with SLURM jobid") == 3  # data, and the two


def _profile(folder: Path) -> Path:
    """Return a Snakemake profile: what a user says of his cluster."""
    profile = folder / "profile"
    profile.mkdir()
    (profile / "config.yaml").write_text(
        "default-resources:\n  slurm_partition: main\n  slurm_account: test\n  mem_mb: 1500\n  runtime: 5\n"
    )
    return profile
