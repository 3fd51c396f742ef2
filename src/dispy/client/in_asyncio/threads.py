"""Functions that block, called from coroutines: each on a thread of its own.

Not on the threads of the loop's executor: a program may have filled these with calls that wait for each other.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


async def in_thread(name: str, function: Callable[..., T], *arguments: Any) -> T:
    """Call a function on a new thread, and wait for it without blocking the loop.

    If the waiting task is cancelled the thread goes on, and nobody sees its result.

    Args:
        name: Name of the thread. It begins with "dispy ".
        function: The function.
        arguments: Its arguments.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def tell(result: Any, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def run() -> None:
        result, error = None, None
        try:
            result = function(*arguments)
        except BaseException as raised:
            error = raised
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(tell, result, error)
        del result, error  # the error refers to this frame: a cycle

    threading.Thread(target=run, name=name, daemon=True).start()
    return await future
