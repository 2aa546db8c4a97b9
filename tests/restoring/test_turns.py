"""Photos side by side never hold more than the budget, and nobody waits for ever."""

import contextlib
import threading
import time

import torch

from daclip.restoring.turns import Turns

THREADS = torch.get_num_threads()


def test_turns_keep_within_the_budget_and_give_the_largest_all_cores() -> None:
    turns, held, most, alone = Turns(100, cores=2), [0], [0], []
    lock = threading.Lock()

    def work(needed: int) -> None:
        with turns.turn(needed):
            with lock:
                held[0] += min(needed, 100)
                most[0] = max(most[0], held[0])
            time.sleep(0.002)
            if needed >= 100:
                alone.append((held[0], torch.get_num_threads()))
            else:
                assert torch.get_num_threads() == 1
            with lock:
                held[0] -= min(needed, 100)

    workers = [threading.Thread(target=work, args=(needed,)) for needed in (30, 100, 50, 250, 60, 30, 10, 90) * 3]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=30)
    assert not any(worker.is_alive() for worker in workers)
    assert 30 < most[0] <= 100
    assert alone == [(100, 2)] * 6
    assert torch.get_num_threads() == THREADS


def test_a_large_photo_is_not_overtaken() -> None:
    turns, order = Turns(100, cores=2), []

    def work(needed: int) -> None:
        with turns.turn(needed):
            order.append(needed)

    with turns.turn(60):
        large, small = (threading.Thread(target=work, args=(needed,)) for needed in (100, 20))
        large.start()
        while not turns._waiting:
            time.sleep(0.001)
        small.start()
        while len(turns._waiting) < 2:
            time.sleep(0.001)
        assert order == []  # the small one would fit, and waits its turn
    large.join(timeout=30)
    small.join(timeout=30)
    assert order == [100, 20]


def test_a_failure_gives_its_share_back() -> None:
    turns = Turns(100, cores=2)
    for _ in range(3):
        with contextlib.suppress(ValueError), turns.turn(80):
            raise ValueError
    with turns.turn(100):
        pass
    torch.set_num_threads(THREADS)
