"""The cause of a failure is found among its symptoms: native code's own message, or the signal, instead of a guess."""

from __future__ import annotations

import pytest

from alpro.launch.diagnosis import KILLED, Event, Rank, Symptom, collect_symptoms, find_cause

ENFORCE = "  what():  [enforce fail at /x/gloo/transport/tcp/device.cc:138] rp != nullptr. Unable to find address for: ha"
THROWN = "terminate called after throwing an instance of 'gloo::EnforceNotMet'"


def cause(*lines: str, before: tuple[str, ...] = ()) -> str:
    """Return the description after rank 1's connection ended and these lines of output arrived."""
    ranks = [Rank(0), Rank(1, host="ha", pid=7, stderr_tail=list(before))]
    events: list[Event] = [("line", "stderr", line) for line in lines]
    symptoms, output = collect_symptoms(Symptom(ranks[1], KILLED), events, ranks, [])
    culprit, text, _ = find_cause(symptoms, output)
    assert culprit is ranks[1]
    return text.removeprefix("rank 1 (ha, process 7) ")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (ENFORCE, "rp != nullptr. Unable to find address for: ha"),
        ("  what():  HTTP request failed.", "HTTP request failed."),
        (
            "  what():  [/x/gloo/tcp/pair.cc:598] Connection closed by peer [10.0.0.2]:3456",
            "[/x/gloo/tcp/pair.cc:598] Connection closed",
        ),
        ("  what():  CUDA error: out of memory", "CUDA error: out of memory"),
    ],
)
def test_message_of_an_exception_in_native_code_is_reported(what: str, message: str) -> None:
    found = "failed: in native code (Horovod, Gloo or torch): " + message
    assert cause(before=(THROWN, what, "Aborted")).startswith(found), "printed before the connection ended"
    assert cause(*(f"[1]<stderr>:{line}\n" for line in (THROWN, what, "Aborted"))).startswith(found), "printed after it"


def test_message_of_python_goes_before_that_of_native_code() -> None:
    assert cause(before=("ValueError: the cause", THROWN, ENFORCE)) == "failed: ValueError: the cause"


@pytest.mark.parametrize(("code", "name"), [(139, "SIGSEGV"), (134, "SIGABRT"), (135, "SIGBUS")])
def test_crash_is_not_called_a_kill(code: int, name: str) -> None:
    assert f"crashed in native code ({name}) without a message" in cause(f"Process 1 exit with status code {code}.\n")


@pytest.mark.parametrize("code", [137, 1, 143])
def test_kill_is_not_called_a_crash(code: int) -> None:
    assert cause(f"Process 1 exit with status code {code}.\n", "[0]<stderr>:" + ENFORCE + "\n") == KILLED
