"""A server that is started for the run: awaited, watched, its log kept, and never left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune.answering.prompts import Prompted
from pytest_finetune.answering.runtimes import AnsweringError
from pytest_finetune.answering.runtimes.server import http as wire
from pytest_finetune.answering.runtimes.server.openai import OpenAIRuntime
from pytest_finetune.answering.runtimes.server.process import tail
from pytest_finetune.experiment import Generation
from pytest_finetune.experiment.runtimes import ServerSettings

GREEDY = Generation(max_new_tokens=7)
ADAPTER = Path("adapter")

# Answers with the folder that it serves; `mode` says how it misbehaves. It starts a child, as real servers do.
SERVER = r"""
import http.server, json, os, subprocess, sys, time
model, port, mode, *named = sys.argv[1:]
port = int(port)
models = [model, *(word.partition("=")[0] for word in named if "=" in word)]
print("serving", model, flush=True)
if mode == "no start":
    sys.exit("CUDA error: \x1b[31mno device\x1b[0m")
if mode == "never ready":
    time.sleep(600)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("child", child.pid, "server", os.getpid(), flush=True)
started = time.monotonic()

class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass
    def reply(self, status, found):
        data = json.dumps(found).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    def do_GET(self):
        loading = mode == "slow" and time.monotonic() - started < 0.3
        listed = {"data": [{"id": name} for name in models]} if mode == "names" else {}
        self.reply(503 if loading else 200, listed)
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if mode == "dies" and body["prompt"] == "ticket 3":
            print("Traceback: out of memory", flush=True)
            os._exit(9)
        said = f"{body['model']} of {os.getpid()}"
        self.reply(200, {"choices": [{"text": said, "finish_reason": "stop"}], "usage": {"completion_tokens": 2}})

http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


class World:
    """A folder with the server's script, and the runtimes that a test makes of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.log = root / "logs" / "server.log"
        (root / "server.py").write_text(SERVER)

    def command(self, mode: str) -> tuple[str, ...]:
        return (sys.executable, str(self.root / "server.py"), "{model}", "{port}", mode)

    @contextmanager
    def runtime(self, mode: str = "well", **settings: Any) -> Iterator[OpenAIRuntime]:
        given = {"serve": self.command(mode), "concurrency": 1, "retries": 1, **settings}
        base = self.root / "base"
        found = OpenAIRuntime("served", ServerSettings(**given), self.folder, self.log, base_folder=base)
        try:
            yield found
        finally:
            found.release()

    def folder(self, adapter: Path | None) -> Path:
        return self.root / ("base" if adapter is None else "merged")

    def pids(self) -> list[int]:
        """Return the process ids of the server and of the child that it has started."""
        line = next(line for line in self.log.read_text().splitlines() if line.startswith("child "))
        _, child, _, server = line.split()
        return [int(child), int(server)]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(wire, "_FIRST_PAUSE_S", 0.01)
    return World(tmp_path)


def ask(count: int = 3) -> list[Prompted]:
    return [Prompted(f"r{line}", line, f"ticket {line}") for line in range(1, count + 1)]


def alive(pid: int) -> bool:
    """Tell whether a process runs; one that has ended and waits for its parent does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


def all_end(pids: list[int], within_s: float = 60) -> bool:
    deadline = time.monotonic() + within_s
    while any(map(alive, pids)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_one_server_answers_until_another_model_is_asked(world: World) -> None:
    with world.runtime() as runtime:
        first = runtime.answer(ask(), GREEDY, ADAPTER)
        again = runtime.answer(ask(), GREEDY, ADAPTER)
        tuned = world.pids()
        base = runtime.answer(ask(), GREEDY)
        assert {answer.response for answer in first + again} == {f"{world.root / 'merged'} of {tuned[1]}"}
        assert {answer.response for answer in base} == {f"{world.root / 'base'} of {world.pids()[1]}"}
        assert all_end(tuned)
        last = world.pids()
        assert all(map(alive, last))
    assert all_end(last)


def test_one_server_knows_the_base_and_an_adapter_by_their_names(world: World, tmp_path: Path) -> None:
    script = (sys.executable, str(world.root / "server.py"), "{base}", "{port}", "names")
    serve = (*script, "--lora-modules", "tuned={adapter}")
    base, other = str(world.root / "base"), tmp_path / "other"
    with world.runtime(serve=serve, model="tuned") as runtime:
        alone = runtime.answer(ask(1), GREEDY)[0].response.split(" of ")
        assert "--lora-modules" not in world.log.read_text()
        tuned = runtime.answer(ask(1), GREEDY, ADAPTER)[0].response.split(" of ")
        beside = runtime.answer(ask(1), GREEDY)[0].response.split(" of ")
        another = runtime.answer(ask(1), GREEDY, other)[0].response.split(" of ")
    assert [alone[0], tuned[0], beside[0], another[0]] == [base, "tuned", base, "tuned"]
    assert tuned[1] == beside[1]  # one server for both
    assert len({alone[1], tuned[1], another[1]}) == 3  # another adapter, another server
    with (
        world.runtime(serve=serve, model="tune") as runtime,
        pytest.raises(AnsweringError) as caught,
    ):
        runtime.answer(ask(1), GREEDY, ADAPTER)
    assert f"the server has no model 'tune'; it has: {base}, tuned" in str(caught.value)
    assert "--lora-modules tuned=adapter" in str(caught.value)


def test_a_server_that_still_loads_its_model_is_waited_for(world: World) -> None:
    with world.runtime("slow") as runtime:
        assert len(runtime.answer(ask(), GREEDY, ADAPTER)) == 3


def test_a_server_that_ends_at_once_is_told_with_its_log(world: World) -> None:
    with world.runtime("no start") as runtime, pytest.raises(AnsweringError) as caught:
        runtime.answer(ask(), GREEDY, ADAPTER)
    told = str(caught.value).splitlines()
    assert told[0] == "runtime 'served': the server ended before it answered"
    assert told[1].startswith(
        f"  command: {sys.executable} {world.root / 'server.py'} {world.root / 'merged'} "
    )
    assert told[2] == f"  its log ends with (all of it: {world.log}):"
    assert told[3:] == [
        f"    serving {world.root / 'merged'}",
        "    CUDA error: no device",
        "    the server has ended with exit status 1",
    ]


def test_a_server_that_never_answers_is_stopped_after_its_time(world: World) -> None:
    with (
        world.runtime("never ready", start_timeout_s=0.5) as runtime,
        pytest.raises(AnsweringError) as caught,
    ):
        runtime.answer(ask(), GREEDY, ADAPTER)
    assert "runtime 'served': the server did not answer within 0.5 s" in str(caught.value)
    assert str(caught.value).endswith("\n  a large model needs longer: raise start_timeout_s")


def test_a_command_that_does_not_exist_is_told(world: World) -> None:
    with (
        world.runtime(serve=("vllm-is-not-here", "{port}")) as runtime,
        pytest.raises(AnsweringError) as caught,
    ):
        runtime.answer(ask(), GREEDY, ADAPTER)
    assert "the command cannot be started: vllm-is-not-here: No such file or directory" in str(caught.value)


def test_a_server_that_dies_among_the_answers_leaves_none_and_is_told_with_its_log(world: World) -> None:
    with world.runtime("dies") as runtime:
        with pytest.raises(AnsweringError) as caught:
            runtime.answer(ask(5), GREEDY, ADAPTER)
        told = str(caught.value)
        assert "of 5" in told
        assert "none of them is kept" in told
        assert "    Traceback: out of memory\n    the server has ended with exit status 9" in told
        assert all_end(world.pids())
        assert len(runtime.answer(ask(2), GREEDY, ADAPTER)) == 2  # the next question starts it again


def test_a_stopped_server_takes_with_it_what_it_started(world: World) -> None:
    with world.runtime() as runtime:
        runtime.answer(ask(), GREEDY, ADAPTER)
        pids = world.pids()
        runtime.release()
        runtime.release()
        assert all_end(pids)


@pytest.mark.skipif(os.name != "posix", reason="kills a process by a POSIX signal")
def test_the_server_ends_with_a_process_that_is_killed(world: World) -> None:
    code = (
        "import os, signal\nfrom pathlib import Path\n"
        "from pytest_finetune.answering.runtimes.server.process import Server\n"
        f"server = Server('served', {world.command('well')!r}, 'm', Path({str(world.log)!r}))\n"
        f"log = Path({str(world.log)!r})\n"
        "server.await_ready(lambda: 'child' in log.read_text(), 30)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], timeout=240, check=False)
    assert ended.returncode == -9
    assert all_end(world.pids())


def test_a_log_is_shown_without_what_steers_a_terminal(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    lines = "".join(f"line {number}\n" for number in range(40))
    log.write_bytes(lines.encode() + b"\x1b]0;title\x07load:  10%\rload: 100%\r\n\xff\n" + b"x" * 500 + b"\n")
    found = tail(log)
    assert len(found) == 15
    assert found[-3:] == ["load: 100%", "\N{REPLACEMENT CHARACTER}", "x" * 200]
    assert tail(tmp_path / "none.log") == []
