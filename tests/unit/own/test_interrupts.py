"""Signals that end a run: the first one in order, a second one at once."""

from __future__ import annotations

import os
import select
import signal
import threading

import pytest

from leaktrace.cli.main import guarded
from leaktrace.own.interrupts import ENDING, Interrupts, NothingToEndError, held_back

pytestmark = pytest.mark.usefixtures("default_signals")


@pytest.mark.parametrize("number", ENDING)
def test_the_first_is_waited_for_and_the_second_ends_at_once(number: signal.Signals) -> None:
    with Interrupts() as interrupts:
        os.kill(os.getpid(), number)
        assert interrupts.received == number
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", ENDING)
def test_what_was_ignored_stays_ignored(number: signal.Signals) -> None:
    """As nohup(1) leaves SIGHUP, and a shell SIGINT for what it runs in the background."""
    signal.signal(number, signal.SIG_IGN)
    with Interrupts() as interrupts:
        os.kill(os.getpid(), number)
        assert not interrupts.is_received()
        assert signal.getsignal(number) is signal.SIG_IGN
    assert signal.getsignal(number) is signal.SIG_IGN


def send(number: signal.Signals = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


def test_the_first_is_raised_where_there_is_nothing_to_end() -> None:
    with Interrupts() as interrupts:
        with pytest.raises(NothingToEndError), interrupts.raised():
            try:
                send()
            except Exception:
                pytest.fail("it was taken for a failure")
        assert interrupts.received == signal.SIGTERM
        with pytest.raises(NothingToEndError), interrupts.raised():
            pytest.fail("it came before")


def test_one_that_comes_later_is_waited_for() -> None:
    with Interrupts() as interrupts:
        with interrupts.raised():
            pass
        send()
        assert interrupts.is_received()


def test_a_held_back_signal_comes_afterwards() -> None:
    with Interrupts() as interrupts, pytest.raises(NothingToEndError), interrupts.raised():
        with held_back():
            send()
            assert not interrupts.is_received()
        pytest.fail("it did not come")


def test_a_signal_to_another_thread_wakes_the_waiting_one() -> None:
    """As does a signal right before the wait begins: Python's handler has not run then."""
    with Interrupts() as interrupts:
        waits = threading.Event()

        def interrupt() -> None:
            waits.wait()
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        waits.set()
        ready, _, _ = select.select([interrupts.fileno()], [], [], 20)
        thread.join()
        assert ready
        assert interrupts.received is signal.SIGINT


def test_a_second_one_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    assert guarded(interrupted) == 130
    message, hint = capsys.readouterr().err.splitlines()
    assert "no final report" in message
    assert hint.startswith("  hint: ")
