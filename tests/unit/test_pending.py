"""A pending save has one result, and one callback that runs before `set_result` returns."""

from __future__ import annotations

import pytest

from balance.feed.pending import PendingSave
from balance.snapshot import Saved
from tests.support.feed import snapshot

SAVED = Saved(snapshot().with_seq(1), False)


def pending() -> PendingSave:
    return PendingSave(snapshot(), 0.0)


def test_a_result_is_set_once_and_calls_back_at_once() -> None:
    save, called = pending(), []
    save.add_done_callback(called.append)
    assert not save.done()
    save.set_result(SAVED)
    assert save.done()
    assert called == [save]
    save.set_result(Saved(snapshot(), True))
    save.set_exception(ValueError("late"))
    assert called == [save]
    assert save.result() is SAVED


def test_an_exception_is_raised_by_the_result() -> None:
    save, called = pending(), []
    save.add_done_callback(called.append)
    save.set_exception(ValueError("refused"))
    save.set_result(SAVED)
    assert called == [save]
    with pytest.raises(ValueError, match="refused"):
        save.result()


@pytest.mark.expects_log("the callback of a save failed")
def test_a_callback_that_fails_does_not_reach_the_writer() -> None:
    save = pending()

    def fail(done: PendingSave) -> None:
        raise LookupError

    save.add_done_callback(fail)
    save.set_result(SAVED)
    assert save.result() is SAVED


@pytest.mark.expects_log("the callback of a save failed")
def test_a_callback_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def fail(done: PendingSave) -> None:
        raise LookupError

    save = pending()
    save.add_done_callback(fail)
    save.set_exception(ValueError("refused"))
    assert caplog.messages == ["the callback of a save failed"]


def test_a_save_that_is_not_done_has_no_result() -> None:
    with pytest.raises(AssertionError, match=r"^it is not done$"):
        pending().result()
