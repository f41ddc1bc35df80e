"""One of several training processes, started by ``accelerate launch -m`` with this module and a FOLDER."""

from __future__ import annotations

import os
import sys
import threading
import traceback
from pathlib import Path

from pytest_finetune.store import is_full
from pytest_finetune.training.processes.exchange import Exchange
from pytest_finetune.training.request import Progress, TrainingError, TrainingInterrupted
from pytest_finetune.training.sft import train_here


def main(folder: str) -> int:
    """Train this process's share; what it has to tell lies in the folder afterwards."""
    threading.Thread(target=_end_with_the_session, daemon=True).start()
    exchange, rank = Exchange(Path(folder)), int(os.environ["RANK"])
    try:
        _train(exchange, rank)
    except TrainingInterrupted as stop:
        exchange.fail(rank, "interrupted", str(stop))
    except TrainingError as error:
        facts = getattr(error, "facts", None)  # the session adds what would help: it has the memory plan
        exchange.fail(rank, "training" if facts is None else "memory", facts or str(error))
        return 1
    except Exception as error:
        traceback.print_exc()
        kind = "disk" if is_full(error) else "other"
        exchange.fail(rank, kind, f"{type(error).__name__}: {error}")
        return 1
    return 0


def _train(exchange: Exchange, rank: int) -> None:
    from pytest_finetune.training.processes import ranks

    def tell(progress: Progress) -> None:
        if rank == 0:
            exchange.tell(progress)

    request = exchange.request(rank, tell)
    ranks.join(exchange.folder, request.device)
    if rank == 0:
        exchange.forget_request()  # everybody has read it
    try:
        result = train_here(request, exchange.asked_to_stop)
        if rank == 0:
            exchange.finish(result)
        ranks.wait()
    finally:
        # After a failure the others do not come to part; this process just ends, and they with it.
        if sys.exception() is None or isinstance(sys.exception(), TrainingInterrupted):
            ranks.leave()


def _end_with_the_session() -> None:
    """End at once when the session is gone: it holds the other end of this process's standard input."""
    while os.read(0, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    status = main(sys.argv[1])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # a process group that lost a member would wait for it
