import os
import signal
import threading
import time

import pytest

from preprocess.errors import DataError, Interrupted
from preprocess.parallel import in_order


def slow_square(number):
    time.sleep(0.02 * (number % 3 == 0))
    return number * number


def process_id(_):
    return os.getpid()


def fail_at_three(number):
    if number == 3:
        raise DataError("three")
    return number


def kill_itself(_):
    os.kill(os.getpid(), signal.SIGKILL)


def wait_a_while(number):
    time.sleep(0.3)
    return number


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order(workers):
    assert list(in_order(slow_square, range(20), workers)) == [number * number for number in range(20)]
    assert list(in_order(slow_square, [], workers)) == []
    with pytest.raises(DataError, match="three"):
        list(in_order(fail_at_three, range(9), workers))


def test_one_worker_is_this_process():
    assert set(in_order(process_id, range(3), 1)) == {os.getpid()}
    assert os.getpid() not in set(in_order(process_id, range(3), 2))


def test_worker_that_is_killed():
    with pytest.raises(DataError, match="a worker process was killed"):
        list(in_order(kill_itself, range(3), 2))


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_stops_it(workers, number):
    handler = signal.getsignal(number)
    results = in_order(wait_a_while, range(100), workers)
    next(results)
    threading.Timer(0.1, os.kill, (os.getpid(), number)).start()
    began = time.monotonic()
    with pytest.raises(Interrupted, match="nothing was changed"):
        list(results)
    assert time.monotonic() - began < 20
    assert signal.getsignal(number) == handler
