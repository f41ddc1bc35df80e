"""Run a server for a pytest process and end it with that process, however that process ends.

A script of its own, started as the leader of a new session: ``supervisor.py GRACE_S COMMAND...``. Its standard input
is a pipe that the pytest process holds open. The pipe closes when that process stops the server, is interrupted,
crashes or is killed; then the server's whole process group is ended. When the server ends by itself, so does the
supervisor, and whatever the server has left behind goes too.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading


def main(grace_s: float, command: list[str]) -> int:
    """Run the command until it ends or standard input closes; `grace_s` lies between the two signals."""
    # A handler and not SIG_IGN, which the server would inherit.
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    except OSError as error:
        print(f"the command cannot be started: {command[0]}: {error.strerror}", flush=True)
        return 127
    threading.Thread(target=_end_with_the_pipe, args=(server, grace_s), daemon=True).start()
    status = server.wait()
    print(f"the server has ended with exit status {status}", flush=True)
    _signal_group(server, hard=True)
    return status if status >= 0 else 128 - status


def _end_with_the_pipe(server: subprocess.Popen[bytes], grace_s: float) -> None:
    while os.read(0, 1024):
        pass
    _signal_group(server, hard=False)
    try:
        server.wait(grace_s)
    except subprocess.TimeoutExpired:
        _signal_group(server, hard=True)


def _signal_group(server: subprocess.Popen[bytes], *, hard: bool) -> None:
    """End what the server has started as well; the hard signal takes the supervisor with it."""
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL if hard else signal.SIGTERM)
    elif hard:
        server.kill()
    else:
        server.terminate()


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
