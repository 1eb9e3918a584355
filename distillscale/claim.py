"""One process at a time on one run's folder; what the run does is not known here.

The claim is an advisory lock on `.claim`, which the system gives back when its process ends, however it ends, so that
a killed run leaves nothing to clean up. The file also says who holds it, for the message, and for file systems whose
locks do not reach other machines: a claim of another machine that was renewed within five minutes is respected, and
its process number means nothing here. A machine is its name, its boot and its table of processes: two may share a name.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, Final, cast

from .errors import InputError

__all__ = ["Busy", "Claim", "claimed", "held"]

_FILE: Final = ".claim"
_STALE_SECONDS: Final = 300.0
_BEAT_SECONDS: Final = 20.0


class Busy(InputError):
    """Another living process holds the folder."""


class Claim:
    """A held claim; `renew` tells other machines that its holder lives."""

    def __init__(self, path: Path, handle: int) -> None:
        self._path, self._handle, self._renewed = path, handle, time.monotonic()

    def renew(self) -> None:
        """Touch the file, at most every ten seconds."""
        now = time.monotonic()
        if now - self._renewed > 10.0:
            os.utime(self._handle)
            self._renewed = now


@contextmanager
def claimed(folder: Path, name: str = _FILE, *, beat: bool = False) -> Generator[Claim]:
    """Hold `folder` exclusively; another living holder is one line that names it.

    With `beat` the claim is renewed for as long as this process lives, whatever it is busy with.
    """
    path = folder / name
    handle = _lock(path)
    over = threading.Event()
    heart = threading.Thread(target=_beat, args=(handle, over), daemon=True) if beat else None
    if heart is not None:
        heart.start()
    try:
        yield Claim(path, handle)
    finally:
        over.set()
        if heart is not None:
            heart.join()
        path.unlink(missing_ok=True)
        os.close(handle)


def _beat(handle: int, over: threading.Event) -> None:
    while not over.wait(_BEAT_SECONDS):
        with suppress(OSError):  # a disk that is away for a moment
            os.utime(handle)


def held(folder: Path, name: str = _FILE) -> bool:
    """Whether a living process holds `folder`; asking takes nothing from anybody.

    The lock is tried only where its file does not already say that its holder is gone, so that one who comes to claim
    the folder at this moment is not in the way of a mere question.
    """
    import fcntl

    try:
        handle = os.open(folder / name, os.O_RDONLY)
    except OSError:
        return False
    try:
        holder = _holder(handle)
        if _elsewhere(holder):
            return time.time() - os.fstat(handle).st_mtime < _STALE_SECONDS
        if holder and not _lives(holder.get("pid")):
            return False
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def _lives(pid: object) -> bool:
    try:
        os.kill(pid if isinstance(pid, int) and pid > 0 else os.getpid(), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _lock(path: Path) -> int:
    import fcntl

    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = _holder(handle)
            os.close(handle)
            raise _busy(path, holder) from None
        # The file may have been deleted by its last holder between our opening and locking it.
        if not (path.exists() and os.path.samestat(os.fstat(handle), path.stat())):
            os.close(handle)
            continue
        holder = _holder(handle)
        age = time.time() - os.fstat(handle).st_mtime
        if _elsewhere(holder) and age < _STALE_SECONDS:
            os.close(handle)
            raise _busy(path, holder)
        os.ftruncate(handle, 0)
        mine = {"pid": os.getpid(), "host": socket.gethostname(), "machine": _machine()}
        os.pwrite(handle, json.dumps(mine).encode(), 0)
        return handle


@cache
def _machine() -> str:
    """Tells machines of one name apart, and containers whose process numbers mean nothing to each other."""
    parts: list[str] = []
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _elsewhere(holder: dict[str, Any]) -> bool:
    """Whether the file names a holder, and one of another machine."""
    if not holder:
        return False
    return holder.get("host") != socket.gethostname() or holder.get("machine", _machine()) != _machine()


def _holder(handle: int) -> dict[str, Any]:
    try:
        found: object = json.loads(os.pread(handle, 4096, 0))
    except ValueError:
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def _busy(path: Path, holder: dict[str, Any]) -> Busy:
    who = f"process {holder.get('pid', 'unknown')} on {holder.get('host', 'an unknown host')}"
    return Busy(
        f"the run in {str(path.parent)!r} is in the hands of {who}; wait for it, stop it, or name another folder"
    )
