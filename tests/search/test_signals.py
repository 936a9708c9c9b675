"""Both signals end a search, where it is safe to."""

import os
import signal

import pytest

from sharetune.search.signals import stopped_at_once, stopped_when_safe


@pytest.fixture(autouse=True)
def heeded():
    """Background jobs of a shell, and so their tests, may ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


BOTH = pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])


@BOTH
def test_a_signal_stops_at_once(kind, capsys):
    before = signal.getsignal(kind)
    with pytest.raises(KeyboardInterrupt), stopped_at_once():
        os.kill(os.getpid(), kind)
    assert signal.getsignal(kind) is before
    assert capsys.readouterr().err == (
        "\nstopping: what runs is ended, and what is finished is kept; press Ctrl-C again to leave "
        "now\n"
    )


@BOTH
def test_a_signal_waits_for_a_safe_place(kind):
    reached = []
    with pytest.raises(KeyboardInterrupt), stopped_when_safe() as stop_if_asked:
        stop_if_asked()
        os.kill(os.getpid(), kind)
        reached.append("after the signal")
        stop_if_asked()
        reached.append("after the safe place")
    assert reached == ["after the signal"]


def test_a_second_signal_does_not_wait(capsys):
    with pytest.raises(KeyboardInterrupt), stopped_when_safe():
        os.kill(os.getpid(), signal.SIGTERM)
        assert capsys.readouterr().err == (
            "\nstopping: at the end of the step that runs, and what is finished is kept; press "
            "Ctrl-C again to stop now\n"
        )
        os.kill(os.getpid(), signal.SIGINT)
    assert capsys.readouterr().err == ""


def test_an_ignored_ctrl_c_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with stopped_at_once():
        os.kill(os.getpid(), signal.SIGINT)
