"""What a process and its children have used, read from /proc."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")
TICKS: float = os.sysconf("SC_CLK_TCK")
# Of /proc/<pid>/stat after the name: state, ppid, ... (proc_pid_stat(5))
PPID, UTIME, CSTIME = 1, 11, 14


def cpu_seconds(root: int) -> float:
    """CPU of `root` and all that came of it, the ended and awaited children included."""
    return sum(sum(map(int, stat[UTIME : CSTIME + 1])) for _, stat in _tree(root)) / TICKS


def peak_memory(root: int) -> int:
    """Bytes that `root` and its living children had in memory at their most, each for itself."""
    return sum(_high_water_mark(pid) for pid, _ in _tree(root))


def _tree(root: int) -> Iterator[tuple[int, list[str]]]:
    stats = {int(path.name): stat for path in PROC.glob("[0-9]*") if (stat := _stat(path))}
    found = [root]
    for parent in found:  # which grows meanwhile
        found += [pid for pid, stat in stats.items() if int(stat[PPID]) == parent]
    yield from ((pid, stats[pid]) for pid in found if pid in stats)


def _stat(path: Path) -> list[str]:
    try:
        return (path / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
        return []


def _high_water_mark(pid: int) -> int:
    try:
        status = (PROC / str(pid) / "status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    mark = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return 0 if mark is None else int(mark[1]) * 1024
