"""Jobs as tasks of a Ray cluster, which places them and says how they ended; what a job does is not known here.

Ray is loaded here alone, and only where a study asks for it. A task starts the job's command in a process of its own
and waits for it. It ends with its driver, as Ray has it; the job notices that its input ended, saves and ends too, so
that nothing is left behind that a later driver could pick up. Ray tries nothing again: attempts are the driver's to
count.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any, Final

from .errors import InputError
from .executor import Ended, JobCommand, require, settings
from .exits import STOPPED
from .jobs import Job
from .worker import Worker

__all__ = ["SETTINGS", "RayExecutor", "carry_out"]

SETTINGS: Final = ("address", "num_cpus", "num_gpus")
"""`address` of a cluster that runs already (else RAY_ADDRESS, else one is started on this machine for as long as the
driver lives); CPUs and GPUs that a job occupies."""
_LOOK_SECONDS: Final = 0.2
_PATIENCE_SECONDS: Final = 120.0
_STORE_BYTES: Final = 80_000_000
"""Of shared memory, in which nothing of ours is ever put: Ray's least."""


def carry_out(arguments: Sequence[str], env: Mapping[str, str], ids: Sequence[str]) -> tuple[int, str]:
    """What a task does, on any machine: the job's command, its exit code and reason."""
    worker = Worker([sys.executable, *arguments], os.environ | dict(env))
    begun = False
    while True:
        try:
            if not begun:
                worker.begin(ids)
                begun = True
            if select.select([worker.output], [], [], _LOOK_SECONDS)[0]:
                said = worker.read()
                if said is None:
                    return worker.ending()
                if said:
                    worker.close()  # its input ends, so it does
                    return said[-1]
        except KeyboardInterrupt:  # that is how Ray cancels
            worker.terminate()


class RayExecutor:
    """At most `workers` tasks at once; without it, as many as the cluster has room for."""

    def __init__(self, command: JobCommand, workers: int | None, given: Mapping[str, str], cores: int) -> None:
        require("ray", "ray")
        chosen = settings(given, SETTINGS, "ray")
        cpus, gpus = _amount(chosen, "num_cpus", float(command.threads)), _amount(chosen, "num_gpus", 0.0)
        address = chosen.get("address") or os.environ.get("RAY_ADDRESS") or "local"
        self._ray = _connected(address, workers, cpus, gpus, cores)
        self._most = workers or self._room(cpus, gpus)
        self._arguments, self._env = command.arguments("-"), command.env
        self._task: Any = self._ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(carry_out)
        self._flying: dict[Any, Job] = {}

    def _room(self, cpus: float, gpus: float) -> int:
        have: dict[str, float] = self._ray.cluster_resources()
        room = [int(have.get(name, 0.0) / each) for name, each in (("CPU", cpus), ("GPU", gpus)) if each]
        if not room or min(room) < 1:
            self._ray.shutdown()
            raise InputError(
                f"--executor ray: the cluster has {have.get('CPU', 0):g} CPUs and {have.get('GPU', 0):g} GPUs, a job "
                f"asks for {cpus:g} and {gpus:g}; lower --engine num_cpus or num_gpus, or give --workers to a cluster "
                "that grows on demand"
            )
        return min(room)

    @property
    def free(self) -> int:
        return self._most - len(self._flying)

    def submit(self, job: Job) -> None:
        task = self._task.options(name=f"distillscale {job.ids[0]}")
        self._flying[task.remote(self._arguments, self._env, list(job.ids))] = job

    def poll(self, seconds: float) -> list[Ended]:
        if not self._flying:
            time.sleep(seconds)
            return []
        self._ray.wait(list(self._flying), num_returns=1, timeout=seconds)
        over, _ = self._ray.wait(list(self._flying), num_returns=len(self._flying), timeout=0)
        return [self._end(reference) for reference in over]

    def _end(self, reference: Any) -> Ended:
        job = self._flying.pop(reference)
        try:
            code, reason = self._ray.get(reference)
        except self._ray.exceptions.TaskCancelledError:
            return Ended(job, STOPPED, "it was cancelled")
        except self._ray.exceptions.RayError as error:  # its process or its machine is gone
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            return Ended(job, 1, f"Ray lost it: {type(error).__name__}: {lines[0] if lines else 'it says no more'}")
        return Ended(job, int(code), str(reason))

    def cancel(self) -> None:
        for reference in self._flying:
            self._ray.cancel(reference, force=False)
        limit = time.monotonic() + _PATIENCE_SECONDS
        while self._flying and time.monotonic() < limit:
            self.poll(_LOOK_SECONDS)
        self._flying.clear()

    def pick_up(self, jobs: Sequence[Job]) -> list[Job]:
        """None: tasks end with their driver."""
        del jobs
        return []

    def __enter__(self) -> RayExecutor:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """What still runs is asked to save, unless in a hurry: then it saves once Ray is gone."""
        if kind is None or not issubclass(kind, KeyboardInterrupt):
            self.cancel()
        self._ray.shutdown()


def _amount(chosen: Mapping[str, str], name: str, default: float) -> float:
    text = chosen.get(name)
    if text is None:
        return default
    with suppress(ValueError):
        amount = float(text)
        if 0.0 <= amount <= 4096.0 and (amount <= 1.0 or amount.is_integer()):
            return amount
    raise InputError(f"--engine {name} must be a part of 1, or a whole number up to 4096; got {text!r}; write {name}=1")


def _connected(address: str, workers: int | None, cpus: float, gpus: float, cores: int) -> Any:
    """Ray, connected; where it is started here it listens to this machine only, and is gone with this process."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    ray: Any = import_module("ray")
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "include_dashboard": None}
    if address == "local":
        quiet |= {
            "include_dashboard": False,
            "num_cpus": max(cores, int((workers or 1) * max(cpus, 1.0))),
            "object_store_memory": _STORE_BYTES,
            "_node_ip_address": "127.0.0.1",
        }
        if gpus:
            quiet["num_gpus"] = None  # as many as Ray finds
    try:
        ray.init(address=address, **{name: value for name, value in quiet.items() if value is not None})
    except (ray.exceptions.RayError, ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        lines = str(error).strip().splitlines()
        raise InputError(
            f"--executor ray cannot reach the cluster at {address!r}: {lines[0] if lines else type(error).__name__}; "
            "check --engine address or RAY_ADDRESS"
        ) from None
    for number, handler in handlers.items():  # Ray ends its driver at once otherwise
        signal.signal(number, handler)
    return ray
