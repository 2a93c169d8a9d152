"""Generator functions that are inside of a frame only while they run.

Rule 1: between two of its steps a generator's consumer is where it was before: context variables alone would leave it inside.
Rule 2: what is thrown into the wrapper, sent into it or asked of it reaches the generator, in its frame.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from functools import partial, wraps
from typing import Any, TypeAlias

__all__ = ["Inside", "resumed", "resumed_async"]

Inside: TypeAlias = Callable[[], AbstractContextManager[None]]
"""Makes a context in which the frame is the current one."""


def resumed(
    function: Callable[..., Any], enter: Callable[[Any, Any], AbstractContextManager[Inside]]
) -> Callable[..., Any]:
    """The generator function, with its steps in the frame that ``enter`` makes of its arguments, and ends."""

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        with enter(args, kwargs) as inside:
            generator = function(*args, **kwargs)
            step: Callable[[], Any] = partial(next, generator)
            while True:
                with inside():
                    try:
                        item = step()
                    except StopIteration as stop:
                        return stop.value
                try:
                    sent = yield item
                except GeneratorExit:
                    with inside():
                        generator.close()
                    raise
                except BaseException as error:  # noqa: BLE001 - whatever was thrown in is thrown on
                    step = partial(generator.throw, error)
                else:
                    step = partial(generator.send, sent)

    return run


def resumed_async(
    function: Callable[..., Any], enter: Callable[[Any, Any], AbstractAsyncContextManager[Inside]]
) -> Callable[..., Any]:
    """The same for an asynchronous generator function."""

    @wraps(function)
    async def run(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        async with enter(args, kwargs) as inside:
            generator = function(*args, **kwargs)
            step: Callable[[], Any] = partial(anext, generator)
            while True:
                with inside():
                    try:
                        item = await step()
                    except StopAsyncIteration:
                        return
                try:
                    sent = yield item
                except GeneratorExit:
                    with inside():
                        await generator.aclose()
                    raise
                except BaseException as error:  # noqa: BLE001 - whatever was thrown in is thrown on
                    step = partial(generator.athrow, error)
                else:
                    step = partial(generator.asend, sent)

    return run
