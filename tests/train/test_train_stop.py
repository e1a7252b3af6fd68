"""Signals that are noted, inside one another too."""

import signal

import pytest

from gatewise.train.stop import Stop


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted_by_all_that_wait_for_it(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Stop() as outer:
        with Stop() as inner:
            signal.raise_signal(number)
        assert inner.signal == outer.signal == number
        with Stop() as later:
            pass
        assert later.signal == 0
    assert signal.getsignal(number) == before


def test_a_second_ctrl_c_is_obeyed_inside_another_too() -> None:
    with Stop() as outer:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt), Stop():
            signal.raise_signal(signal.SIGINT)
        assert outer.signal == signal.SIGINT
