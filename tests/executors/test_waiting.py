"""One job for a key: sent once, attached to, its exit code not believed, its end told with what to do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune.executors.protocol import ExecutorError, Resources, Seen, State, Submission
from pytest_finetune.executors.waiting import Job, JobDetached, JobError, Unwanted, Wait
from pytest_finetune.store import Store
from pytest_finetune.yamlfile import Json

KEY = "cd" * 32
DONE: dict[str, Any] = {"state": "done", "kind": "adapters", "made": "ef" * 32, "beat": 9, "log": []}
RUNNING = Seen("running")
SHORT = Wait(silent_s=0.2, grace_s=0.2, first_pause_s=0.005, longest_pause_s=0.01)


@dataclass
class Engine:
    """An engine whose job does, at each look, what the next of `does` says; the last goes on."""

    does: list[Callable[[], Seen]]
    printed: str = ""
    submitted: int = 0
    cancelled: int = 0
    fails: str = ""
    name: str = "stand-in"
    looks: list[str] = field(default_factory=list)

    def script(self, step: Submission) -> str:
        return "go"

    def submit(self, step: Submission) -> Mapping[str, Any]:
        self.submitted += 1
        if self.fails:
            raise ExecutorError(self.fails)
        return {"id": str(self.submitted)}

    def look(self, step: Submission, ticket: Json) -> Seen:
        seen = self.does[0]() if len(self.does) == 1 else self.does.pop(0)()
        self.looks.append(seen.state)
        return seen

    def output(self, step: Submission, ticket: Json) -> str:
        return self.printed

    def cancel(self, step: Submission, ticket: Json) -> None:
        self.cancelled += 1


@dataclass
class Place:
    """A store, and what was said about its job."""

    store: Store
    said: list[str] = field(default_factory=list)
    heard: list[Json] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def job(self, engine: Engine, wait: Wait = SHORT, key: str = KEY) -> Job:
        step = Submission(
            key, "s3://b", "the training of one", Resources(), self.store.root, self.store.root / "log"
        )
        return Job(
            step, engine, self.store.jobs, self.heard.append, self.said.append, self.notes.append, wait=wait
        )

    def tells(
        self, number: int = 1, seen: Seen = RUNNING, key: str = KEY, **facts: Any
    ) -> Callable[[], Seen]:
        """Return what lets the step tell something when its engine is looked at."""

        def act() -> Seen:
            self.store.jobs.tell(key, number, {"state": "running", "log": [], **facts})
            return seen

        return act


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(Store(tmp_path / "store"))


def request() -> Json:
    return {"does": "train"}


def test_a_job_is_sent_with_its_request_and_its_result_is_what_the_step_tells(place: Place) -> None:
    engine = Engine([lambda: Seen("waiting"), place.tells(beat=1, part="training"), place.tells(**DONE)])
    assert place.job(engine).result(request)["made"] == DONE["made"]
    assert engine.submitted == 1
    assert [told["beat"] for told in place.heard] == [1, 9]
    asked = place.store.jobs.request(KEY)
    assert asked is not None
    assert asked["does"] == "train"


def test_what_was_done_before_is_taken_and_nothing_is_sent(place: Place) -> None:
    place.job(Engine([place.tells(**DONE)])).result(request)
    again = Engine([])
    assert place.job(again).result(request)["made"] == DONE["made"]
    assert again.submitted == 0


def test_a_second_pytest_attaches_and_sees_where_the_job_stands(place: Place) -> None:
    place.store.jobs.ask(KEY, request())
    place.store.jobs.send(KEY, 1, {"executor": "stand-in", "host": "login7"})
    place.store.jobs.know(KEY, 1, {"id": "1"})
    place.tells(beat=3, log=["loading the base"])()
    engine = Engine([lambda: Seen("running"), place.tells(**DONE)])
    place.job(engine).result(request)
    assert engine.submitted == 0
    assert place.said == [
        "attached to the job of the training of one, sent by stand-in from login7",
        "  loading the base",
    ]


def test_two_that_begin_at_once_send_one_job(place: Place) -> None:
    """The one that comes second to the store waits for the first one's job."""
    late = Engine([place.tells(**DONE)])
    job = place.job(late)
    attempts = iter([0, 0])
    place.store.jobs.send(KEY, 1, {"executor": "stand-in", "host": "a"})
    place.store.jobs.know(KEY, 1, {"id": "1"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place.store.jobs, "attempt", lambda key: next(attempts))
        job.result(request)
    assert late.submitted == 0


@pytest.mark.parametrize("code", [0, 1, None])
def test_an_exit_code_is_not_believed_where_the_store_has_the_result(place: Place, code: int | None) -> None:
    engine = Engine([place.tells(seen=Seen("ended", code), **DONE)])
    assert place.job(engine).result(request)["state"] == "done"


@pytest.mark.parametrize(
    ("code", "said"), [(0, "ended with exit code 0"), (137, "ended with exit code 137"), (None, "ended")]
)
def test_a_job_that_leaves_no_result_is_an_error_with_the_end_of_its_output(
    place: Place, code: int | None, said: str
) -> None:
    engine = Engine(
        [lambda: Seen("ended", code)], printed="starting\nHF_TOKEN=hf_abcdefghijklmnopqrstuvwxyzABCDEF\nbye"
    )
    with pytest.raises(JobError) as failed:
        place.job(engine).result(request)
    text = str(failed.value)
    assert f"the job of the training of one {said} and left no result in the store s3://b" in text
    assert "the end of its log:\n  starting" in text
    assert "hf_abc" not in text
    assert text.splitlines()[-1].startswith("to do: look at the engine's own log")


def test_a_command_that_only_starts_the_job_is_waited_for_as_long_as_its_step_is_heard(place: Place) -> None:
    ended = Seen("ended", 0)
    beats = [place.tells(beat=beat, seen=ended) for beat in range(60)]
    assert place.job(Engine([*beats, place.tells(seen=ended, **DONE)])).result(request)["beat"] == 9


def test_a_job_may_wait_in_a_queue_that_its_command_does_not_know(place: Place) -> None:
    quiet = [lambda: Seen("ended", 0)] * 100
    engine = Engine([*quiet, place.tells(seen=Seen("ended", 0), **DONE)])
    wait = Wait(queue_s=60, silent_s=0.2, grace_s=0.05, first_pause_s=0.001, longest_pause_s=0.001)
    assert place.job(engine, wait).result(request)["state"] == "done"


def test_a_job_that_nobody_can_ask_about_has_vanished_when_its_step_falls_silent(place: Place) -> None:
    place.store.jobs.send(KEY, 1, {"executor": "another", "host": "elsewhere"})
    place.tells(beat=4)()
    with pytest.raises(JobError, match=r"has not been heard of for .*: it vanished, or never began"):
        place.job(Engine([])).result(request)


@pytest.mark.parametrize(
    ("state", "todo"),
    [
        ("failed", "mend what the message names, and run the same pytest again"),
        ("refused", "mend what the message names where the job runs"),
        ("out of memory", "list a larger card under executor.cards"),
        ("interrupted", "the training goes on from its last sealed checkpoint"),
    ],
)
def test_every_other_end_says_what_the_step_said_and_the_one_thing_to_do(
    place: Place, state: str, todo: str
) -> None:
    engine = Engine(
        [place.tells(seen=Seen("ended", 1), state=state, text="the disk is made of cheese", log=["step 3/9"])]
    )
    with pytest.raises(JobError) as failed:
        place.job(engine).result(request)
    first, *_, last = str(failed.value).splitlines()
    assert first == f"the job of the training of one ended: {state}: the disk is made of cheese"
    assert "  step 3/9" in str(failed.value)
    assert todo in last


def test_a_job_whose_result_is_wanted_no_more_is_cancelled(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hear(told: Json) -> None:
        raise Unwanted

    monkeypatch.setattr(place, "heard", type("Deaf", (), {"append": staticmethod(hear)}))
    engine = Engine([place.tells(beat=1, part="training")])
    with pytest.raises(Unwanted):
        place.job(engine).result(request)
    assert engine.cancelled == 1


def test_after_a_failure_the_next_pytest_sends_a_new_job(place: Place) -> None:
    with pytest.raises(JobError):
        place.job(Engine([place.tells(state="failed", text="no")])).result(request)
    again = Engine([place.tells(2, **DONE)])
    assert place.job(again).result(request)["state"] == "done"
    assert again.submitted == 1


def test_a_step_that_was_stopped_and_queued_again_is_waited_for(place: Place) -> None:
    stopped = place.tells(seen=Seen("waiting"), state="interrupted", text="preempted")
    engine = Engine([stopped, place.tells(beat=5), place.tells(**DONE)])
    assert place.job(engine).result(request)["state"] == "done"
    assert engine.submitted == 1


@pytest.mark.parametrize("between", ["unknown", "ended"])
def test_an_engine_that_says_neither_waiting_nor_running_for_a_moment_ends_no_stopped_step(
    place: Place, between: State
) -> None:
    """Slurm does so while it puts a job back into its queue, and its controller while it starts anew."""
    stopped = place.tells(seen=Seen("running"), beat=4, state="interrupted", text="preempted")
    moment = [lambda: Seen(between)] * 3
    long = [lambda: Seen("waiting")] * 60  # longer than what counts as silence
    engine = Engine([stopped, *moment, *long, *moment, place.tells(beat=5), place.tells(**DONE)])
    assert place.job(engine).result(request)["state"] == "done"
    assert engine.submitted == 1


def test_a_second_pytest_attaches_to_a_stopped_job_while_it_is_put_into_the_queue_again(place: Place) -> None:
    place.store.jobs.send(KEY, 1, {"executor": "stand-in", "host": "login7"})
    place.store.jobs.know(KEY, 1, {"id": "1"})
    place.tells(beat=4, state="interrupted", text="preempted")()
    moment = [lambda: Seen("unknown")] * 3
    engine = Engine([*moment, lambda: Seen("waiting"), place.tells(beat=5), place.tells(**DONE)])
    assert place.job(engine).result(request)["state"] == "done"
    assert engine.submitted == 0


def test_a_stopped_job_that_no_engine_knows_any_more_is_sent_anew(place: Place) -> None:
    place.store.jobs.send(KEY, 1, {"executor": "stand-in", "host": "login7"})
    place.store.jobs.know(KEY, 1, {"id": "1"})
    place.tells(beat=4, state="interrupted", text="preempted")()
    engine = Engine([lambda: place.tells(2, **DONE)() if engine.submitted else Seen("unknown")])
    assert place.job(engine).result(request)["state"] == "done"
    assert engine.submitted == 1


def test_an_engine_that_does_not_take_the_job_is_an_error_and_blocks_no_later_try(place: Place) -> None:
    with pytest.raises(ExecutorError, match="no such partition"):
        place.job(Engine([], fails="no such partition")).result(request)
    assert place.job(Engine([place.tells(2, **DONE)])).result(request)["state"] == "done"


def test_one_ctrl_c_detaches_and_the_job_goes_on(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine([lambda: Seen("running")])
    presses(monkeypatch, 1)
    with pytest.raises(JobDetached, match="goes on: run the same pytest again to attach to it"):
        place.job(engine).result(request)
    assert engine.cancelled == 0
    assert place.said == ["detaching from the job of the training of one; Ctrl-C again within 3 s cancels it"]


def test_two_ctrl_c_cancel(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine([lambda: Seen("running")])
    presses(monkeypatch, 2)
    with pytest.raises(JobDetached, match="the job of the training of one was cancelled"):
        place.job(engine).result(request)
    assert engine.cancelled == 1


def presses(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    left = iter([True] * times)

    def sleep(_: float) -> None:
        if next(left, False):
            raise KeyboardInterrupt

    monkeypatch.setattr("pytest_finetune.executors.waiting.time.sleep", sleep)


def test_eight_that_wait_have_eight_jobs_in_flight(tmp_path: Path) -> None:
    """Each is sent before any of them ends; nothing here makes one wait for another."""
    store, sent = Store(tmp_path / "store"), threading.Barrier(8)

    def wait_for(key: str) -> str:
        place = Place(store)
        engine = Engine([lambda: (sent.wait(20), place.tells(key=key, **DONE)())[1]])
        return str(place.job(engine, key=key).result(dict)["state"])

    with ThreadPoolExecutor(8) as waiting:
        assert [*waiting.map(wait_for, (f"{number}" * 64 for number in range(8)))] == ["done"] * 8


def test_a_job_that_its_engine_will_never_start_ends_with_the_reason_and_what_to_do(place: Place) -> None:
    held = Seen("ended", why="waits for what will not come (held): job 1 was not started", do="scancel 1")
    engine = Engine([lambda: Seen("waiting", why="Resources"), lambda: held])
    with pytest.raises(JobError) as told:
        place.job(engine).result(request)
    said = str(told.value).splitlines()
    assert said[0].startswith(
        "the job of the training of one waits for what will not come (held): job 1 was not"
    )
    assert said[-1] == "to do: scancel 1"
    assert place.notes[0] == "waiting (Resources): the training of one"
