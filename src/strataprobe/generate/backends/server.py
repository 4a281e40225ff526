"""The backend for any OpenAI-compatible server: vLLM, llama.cpp, LM Studio, Ollama. Several requests at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from strataprobe.errors import BackendError, OptionError
from strataprobe.generate.acceptance import cleaned
from strataprobe.generate.asking import Asking
from strataprobe.generate.backends import OLLAMA_MODEL, BackendOptions
from strataprobe.generate.backends.chat import Chat, Counts, Reply, Traits, library
from strataprobe.generate.backends.failures import Denials, Denied, Failure, Gone, Patience, printable
from strataprobe.generate.backends.places import (
    Place,
    checked_url,
    known_as,
    listing,
    no_such_model,
    sentence,
    without_folders,
)
from strataprobe.generate.cells import Cell
from strataprobe.generate.prompts import Messages
from strataprobe.manifest import ModelIdentity, sha256_json
from strataprobe.progress import note

_T = TypeVar("_T")
# Enough for a short answer and for the thoughts of a model that must think first.
_SHORT_TOKENS = 256
_LARGEST_SEED = 2**31 - 1
_CHECK_S = 30.0


class Server:
    """A model behind a server, ``name`` "openai" or "ollama"; ``option`` is what the user names the model with.

    Raises BackendError when the server is not there, wants a key, is none of this kind, or has not the model; OptionError
    for an address that is missing or cannot be one.
    """

    # Seconds without a good answer from a server that does not answer, and from one that says that it is busy.
    patience_s = 30.0
    busy_patience_s = 600.0
    first_wait_s = 0.5

    def __init__(self, name: str, options: BackendOptions, option: str = "--llm") -> None:
        self.name, self.option, self._options = name, option, options
        self._place = Place(name, checked_url(name, options.base_url))
        self._counts, self._traits = Counts(), Traits()
        self._models: list[str] | None = None
        self._has_answered = False
        self._model = options.llm or ""
        library()
        try:
            self._models = _run(self._listed)
        except (Gone, Denied, Failure) as problem:
            raise self._sentence(problem) from None
        self._model = self._chosen(options.llm or (OLLAMA_MODEL if name == "ollama" else None))
        self.identity = ModelIdentity(name=printable(without_folders(self._model)), revision="unknown")

    def write(self, asking: Asking, seed: int) -> None:
        """Ask for the open cells, ``parallel`` at a time; a rejected one is asked again after all the others.

        Raises BackendError when the server stops answering or denies what is asked; what was settled is on disk.
        """

        async def ask(chat: Chat, cell: Cell) -> Cell | None:
            if not asking.may_ask(cell):
                return None
            own_seed = _seed_of(seed, cell.id, len(asking.ledger.of(cell.id)) + 1)
            wanted = (self._options.temperature, own_seed, self._options.max_new_tokens)
            reply = await self._reply(chat, denials, cell.id, asking.messages(cell), wanted)
            accepted = asking.settle(cell, reply.text, reply.problem)
            return None if accepted or not asking.may_ask(cell) else cell

        cells = asking.open()
        denials = Denials(len(cells), self._has_answered or len(asking.missing()) < len(asking.plan))
        try:
            self._pool(cells, ask)
        except (Gone, Denied) as problem:
            n, missing = len(asking.plan), len(asking.missing())
            raise self._sentence(
                problem, f": {n - missing:,} of {n:,} texts are there and none of them is lost"
            ) from None

    def answers(self, prompts: Sequence[Messages]) -> list[str | None]:
        """One short answer for each prompt, in order, at temperature 0; None where none came. Raises BackendError."""
        found: list[str | None] = [None] * len(prompts)

        async def ask(chat: Chat, place: int) -> None:
            reply = await self._reply(chat, denials, place, prompts[place], (0.0, 0, _SHORT_TOKENS))
            if reply.problem is None or reply.problem[0] == "truncated":
                found[place] = cleaned(reply.text) or None

        denials = Denials(len(prompts), self._has_answered)
        try:
            self._pool(range(len(prompts)), ask)
        except (Gone, Denied) as problem:
            raise self._sentence(problem, ": what was written is not lost") from None
        return found

    def details(self) -> dict[str, Any]:
        """Requests sent, those sent again by kind of failure, tokens where the server counts them, settings not taken."""
        counts = self._counts
        found: dict[str, Any] = {"requests": counts.requests, "retries": dict(sorted(counts.retries.items()))}
        more = {"tokens": dict(sorted(counts.tokens.items())), "not_taken": sorted(self._traits.dropped)}
        return found | {name: value for name, value in more.items() if value}

    def _chat(self, timeout_s: float) -> tuple[Chat, Patience]:
        patience = Patience(self.patience_s, self.busy_patience_s, self.first_wait_s, timeout_s)
        return Chat(self._place, timeout_s, self._counts, patience, self._traits), patience

    async def _reply(
        self, chat: Chat, denials: Denials, prompt: object, messages: Messages, wanted: tuple[float, int, int]
    ) -> Reply:
        """The reply to one prompt, of which ``wanted`` says the temperature, seed and tokens. Raises Gone and Denied."""
        try:
            reply = await chat.ask(self._model, messages, *wanted)
        except Denied as denied:
            if denials.are_too_many(denied, prompt):
                raise
            return Reply("", denied.rejection)
        if reply.problem is None or reply.problem[0] != "no_answer":
            denials.good()
            self._has_answered = True
        return reply

    async def _listed(self) -> list[str] | None:
        """The server's models, waiting while it loads one."""
        chat, patience = self._chat(min(self._options.timeout_s, _CHECK_S))
        async with chat:
            tries = 0
            while True:
                try:
                    return await chat.models()
                except Failure as failure:
                    if not failure.busy:
                        raise
                    tries += 1
                    if tries == 1:
                        note(
                            f"generate: the server at {self._place.shown} is there but busy ({failure.shown}), waiting."
                        )
                    await asyncio.sleep(patience.wait_s(failure, tries))

    def _pool(self, jobs: Sequence[_T], ask: Callable[[Chat, _T], Awaitable[_T | None]]) -> None:
        """Do the jobs, ``parallel`` at a time; a job that ``ask`` gives back goes to the end. Raises what ``ask`` raises."""

        async def work(chat: Chat, queue: asyncio.Queue[_T]) -> None:
            while True:
                again = await ask(chat, await queue.get())
                if again is not None:
                    queue.put_nowait(again)
                queue.task_done()

        async def all_of_them() -> None:
            queue: asyncio.Queue[_T] = asyncio.Queue()
            for job in jobs:
                queue.put_nowait(job)
            opened, patience = self._chat(self._options.timeout_s)
            async with opened as chat, asyncio.TaskGroup() as group:
                n = max(1, min(self._options.parallel, len(jobs)))
                tasks = [group.create_task(work(chat, queue)) for _ in range(n)]
                tasks.append(group.create_task(patience.watch()))
                await queue.join()
                for task in tasks:
                    task.cancel()

        try:
            if jobs:
                _run(all_of_them)
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from None

    def _chosen(self, wanted: str | None) -> str:
        """The name of the model to ask, as the server knows it."""
        there, where = self._models, self._place.shown
        if self.name == "ollama" and there is None:
            raise BackendError(
                f"What answers at {where} is not Ollama's API, whose address ends in /v1: mend --base-url."
            )
        if wanted is not None:
            known = known_as(wanted, there or ())
            if known is None and self.name == "ollama":
                raise BackendError(
                    f"Ollama at {where} has no model {wanted!r} (there: {listing(there)}): fetch it with `ollama pull"
                    f" {wanted}`, or take one that is there with {self.option}."
                )
            if known is None and there is not None and len(there) > 1:  # a server of one model may take any name for it
                raise BackendError(no_such_model(self._place, wanted, there, self.option))
            return known or wanted
        if there is not None and len(there) == 1:
            shown = printable(without_folders(there[0]))
            note(f"generate: asking {shown}, the only model of the server at {where}.")
            return there[0]
        if there:
            raise OptionError(
                f"The server at {where} has several models: take one with {self.option} ({listing(there)})."
            )
        raise OptionError(f"The server at {where} does not say which models it has: name one with {self.option}.")

    def _sentence(self, problem: Gone | Denied | Failure, kept: str = "") -> BackendError:
        return BackendError(sentence(problem, self._place, self._model, self._models, kept, self.option))


def _run(main: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """Run a coroutine function to its end; in a thread of its own where an event loop runs already, as in notebooks."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(main())
    running: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any] | None]] = []

    async def noted() -> _T:
        running.append((asyncio.get_running_loop(), asyncio.current_task()))
        return await main()

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(lambda: asyncio.run(noted()))
        try:
            return future.result()
        except BaseException:
            for loop, task in running:
                if task is not None and not future.done():
                    loop.call_soon_threadsafe(task.cancel)
            raise


def _seed_of(seed: int, cell_id: str, attempt: int) -> int:
    return int(sha256_json([seed, cell_id, attempt])[:8], 16) & _LARGEST_SEED
