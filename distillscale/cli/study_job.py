"""The jobs of one process, one after the other, each ended by a code and a reason; how a run trains is not known."""

from __future__ import annotations

import json
import queue
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import TextIO

from ..claim import Busy, Claim, claimed
from ..errors import DistillscaleError
from ..exits import BUSY, FAILED, STOPPED, WRONG
from ..store import JOB, Store
from ..study import Planned, Study

__all__ = ["Jobs"]

_LISTENS_SECONDS = 0.2


class Jobs:
    """Carries out jobs of a study; `stop` and the end of standard input end the one in hand after its step."""

    def __init__(
        self,
        study: Study,
        runs: Sequence[Planned],
        store: Store,
        threads: int,
        save_seconds: float,
        stop: Callable[[], bool],
    ) -> None:
        self._study, self._runs, self._store = study, {run.id: run for run in runs}, store
        self._threads, self._save_seconds, self._asked = threads, save_seconds, stop
        self._orphaned = threading.Event()

    def _stop(self) -> bool:
        return self._asked() or self._orphaned.is_set()

    def of_lines(self, lines: TextIO) -> int:
        """The job of each line, its ids separated by blanks; the answer to each is one line of JSON."""
        waiting: queue.SimpleQueue[str] = queue.SimpleQueue()

        def listen() -> None:
            for text in lines:
                waiting.put(text)
            self._orphaned.set()

        threading.Thread(target=listen, daemon=True).start()
        while not self._asked():
            try:
                ids = waiting.get(timeout=_LISTENS_SECONDS).split()
            except queue.Empty:
                if self._orphaned.is_set():
                    return 0
                continue
            code, reason = self.one(ids)
            sys.stdout.write(json.dumps({"code": code, "reason": reason}) + "\n")
            sys.stdout.flush()
        return STOPPED

    def one(self, ids: Sequence[str]) -> tuple[int, str]:
        """One job: its exit code, and the reason where that is not 0."""
        try:
            with ExitStack() as stack:
                for id_ in ids:
                    stack.enter_context(self._claim(id_))
                return self._carry_out(ids)
        except Busy as error:
            return BUSY, str(error)
        except DistillscaleError as error:
            return WRONG, str(error)
        except Exception as error:  # whatever it is, it is this job's alone
            traceback.print_exc()
            return 1, " ".join(f"{type(error).__name__}: {error}".split())

    def _claim(self, id_: str) -> AbstractContextManager[Claim]:
        folder = self._store.folder(id_)
        folder.mkdir(parents=True, exist_ok=True)
        return claimed(folder, JOB, beat=True)

    def _carry_out(self, ids: Sequence[str]) -> tuple[int, str]:
        import torch

        from ..train.carry import carry_out
        from ..train.loop import Interrupted

        torch.set_num_threads(self._threads)
        try:
            records = carry_out(
                self._study,
                self._runs,
                ids,
                self._store,
                save_seconds=self._save_seconds,
                stop=self._stop,
            )
        except Interrupted as reason:
            return STOPPED, str(reason)
        wild = [record for record in records if record.outcome != "completed"]
        return (FAILED, f"run {wild[0].id} diverged at step {wild[0].diverged_step}") if wild else (0, "")
