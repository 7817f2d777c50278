"""System calls of a running process's main thread, where all its work is done: counted, or one made its last."""

import asyncio
import itertools
import os
import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

CALL = re.compile(r"^(\w+)\(", re.MULTILINE)
Step = tuple[str, int]
"""A system call's name, and which of that name it is, from 1."""
INWARD = frozenset(("brk", "futex", "getpid", "gettid", "madvise", "mmap", "mprotect", "munmap"))
"""To die at one of these is to die at the next other one."""
OUTWARD = frozenset(("close", "connect", "sendmsg", "sendto", "shutdown", "write", "writev"))
"""What others notice; nothing changes for them between two of these."""

DETACH_SECONDS = 2.0


@asynccontextmanager
async def _attached(pid: int, output: Path, *options: str) -> AsyncIterator[None]:
    program = shutil.which("strace")
    if program is None:
        pytest.skip("strace is not installed: no process can be killed at its system calls")
    # Not asyncio's subprocess: that one warns when what it signals has just ended by itself, as is the rule here.
    strace = subprocess.Popen(  # noqa: ASYNC220, S603 - starting it takes a millisecond; nothing here is from outside
        [program, "-p", str(pid), "-o", str(output), *options],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert strace.stderr is not None
    said = await asyncio.to_thread(strace.stderr.readline)
    try:
        if "attached" not in said:
            pytest.skip(f"strace can't watch other processes here: {said.strip()}")
        yield
    finally:
        strace.send_signal(signal.SIGINT)  # it detaches, and what it watched goes on
        try:
            await asyncio.to_thread(strace.communicate, timeout=DETACH_SECONDS)
        except subprocess.TimeoutExpired:
            strace.kill()
            await asyncio.to_thread(strace.communicate)


@asynccontextmanager
async def watching(pid: int, output: Path) -> AsyncIterator[list[Step]]:
    """Afterwards, the system calls made in the block, in their order."""
    steps = list[Step]()
    async with _attached(pid, output):
        yield steps
    count = Counter[str]()
    for name in CALL.findall(await asyncio.to_thread(output.read_text, errors="replace")):
        count[name] += 1
        if name not in INWARD:
            steps.append((name, count[name]))


def noticed(steps: Sequence[Step]) -> list[Step]:
    """Those that others notice, and what follows each: whether they have acted on it by then is a matter of luck."""
    return list(dict.fromkeys(itertools.chain(*(pair for pair in itertools.pairwise(steps) if pair[0][0] in OUTWARD))))


@asynccontextmanager
async def killing(pid: int, step: Step) -> AsyncIterator[None]:
    """SIGKILL as the process enters this system call, counted from now on."""
    name, number = step
    inject = f"inject={name}:signal=SIGKILL:when={number}"
    async with _attached(pid, Path(os.devnull), "-e", f"trace={name}", "-e", inject):
        yield
