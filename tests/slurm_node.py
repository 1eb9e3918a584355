"""A SLURM cluster of one node on this machine, for as long as a test needs it: its own munge, controller and daemon."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

__all__ = ["PROGRAMS", "missing", "one_node"]

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")
"""Debian has them in slurmctld, slurmd, slurm-client and munge."""

_CONF = """
ClusterName=local
SlurmctldHost=localhost(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={home}/munge.socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
StateSaveLocation={home}/controller
SlurmdSpoolDir={home}/node
SlurmctldPidFile={home}/controller.pid
SlurmdPidFile={home}/node.pid
SlurmctldLogFile={home}/controller.log
SlurmdLogFile={home}/node.log
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerParameters=bf_interval=2,sched_interval=2
NodeName=localhost NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=main Nodes=localhost Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> list[str]:
    """Programs that are not on this machine."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


def _ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextmanager
def one_node(home: Path) -> Generator[dict[str, str]]:
    """The environment of its users; `home` has a short path, for its socket."""
    for name in ("controller", "node"):
        (home / name).mkdir()
    (home / "munge.key").write_bytes(os.urandom(128))
    (home / "munge.key").chmod(0o400)
    conf = home / "slurm.conf"
    conf.write_text(_CONF.format(user=getpass.getuser(), home=home, ports=_ports(2)), encoding="utf-8")
    env = os.environ | {"SLURM_CONF": str(conf)}
    files = {"key": "munge.key", "socket": "munge.socket", "pid": "munge.pid", "log": "munge.log", "seed": "munge.seed"}
    munge = [f"--{'socket' if name == 'socket' else f'{name}-file'}={home / file}" for name, file in files.items()]
    daemons: list[subprocess.Popen[bytes]] = []
    with ExitStack() as stack:
        try:
            for command in (
                ["munged", "--foreground", "--force", *munge],
                ["slurmctld", "-D"],
                ["slurmd", "-D", "-N", "localhost"],
            ):
                log = stack.enter_context(open(home / f"{command[0]}.out", "wb"))
                daemons.append(subprocess.Popen(command, env=env, stdout=log, stderr=log))
                if command[0] == "munged":
                    _until(lambda: (home / "munge.socket").exists())
            _until(lambda: "idle" in _said(["sinfo", "--noheader", "--format=%T"], env))
            yield {"SLURM_CONF": str(conf)}
        finally:
            _said(["scancel", f"--user={getpass.getuser()}"], env)
            for daemon in reversed(daemons):
                daemon.terminate()
            for daemon in daemons:
                daemon.wait(60)


def _said(command: list[str], env: dict[str, str]) -> str:
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60).stdout


def _until(condition: object, seconds: float = 60.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < limit, "the SLURM node does not come up"
        time.sleep(0.2)
