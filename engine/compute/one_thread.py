"""Small matrices are worked on by one thread: several only wait for each other, and on busy machines for long."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from threadpoolctl import ThreadpoolController


@contextmanager
def one_thread() -> Iterator[None]:
    """Hold torch and BLAS to one thread each, in this process, for the length of a block.

    Measured with both of two cores busy: a Cholesky factor of 200 ratings takes 215 ms with two threads, 1 ms with one.
    The second thread of BLAS goes on waiting, on a core that others could use, for a tenth of a second after its work.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with _controller().limit(limits=1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()
