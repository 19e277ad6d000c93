import threading

from expertmesh.engine.inbox import Inbox


def test_errands_are_done_in_order_and_once():
    inbox, done = Inbox(), []
    for number in range(3):
        inbox.put(lambda number=number: done.append(number))
    assert inbox.do_all(waits=True)
    assert inbox.do_all(waits=False)
    assert done == [0, 1, 2]


def test_what_an_errand_puts_is_done_too():
    inbox, done = Inbox(), []
    inbox.put(lambda: inbox.put(lambda: done.append("inner")))
    inbox.do_all(waits=False)
    assert done == ["inner"]


def test_an_errand_of_another_thread_is_waited_for():
    inbox, done = Inbox(), []
    timer = threading.Timer(0.05, inbox.put, (lambda: done.append(threading.current_thread()),))
    timer.start()
    while not done:
        assert inbox.do_all(waits=True)
    assert done == [threading.main_thread()]
    timer.join()


def test_closing_ends_the_wait_and_drops_what_is_left():
    inbox, done = Inbox(), []
    timer = threading.Timer(0.05, inbox.close)
    timer.start()
    while inbox.do_all(waits=True):
        pass
    inbox.put(lambda: done.append("late"))
    assert not inbox.do_all(waits=False)
    assert inbox.is_closed and not done
    timer.join()
