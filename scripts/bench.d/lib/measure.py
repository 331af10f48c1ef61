"""Times commands: wall clock, processor seconds, peak memory; contenders take turns."""

import os
import resource
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable


class CommandFailed(Exception):
    pass


@dataclass
class Sample:
    """One run of one contender."""

    seconds: float
    client_cpu: float  # of the command and all its children
    server_cpu: float = 0.0
    peak_rss: int = 0  # bytes; of the largest process of the command
    output_bytes: int = 0  # what it stored
    notes: dict = field(default_factory=dict)  # figures that a contender tells of itself


@dataclass
class Contender:
    """One way of doing the job. The first of a list is ours."""

    name: str
    command: Callable[[], list]  # made anew for each round, after `prepare`
    prepare: Callable[[], None] = lambda: None  # not timed
    output: Path | None = None  # measured after the run
    after: Callable[[str, Sample], None] = lambda _stdout, _sample: None  # not timed
    environment: dict = field(default_factory=dict)
    samples: list = field(default_factory=list)


def run(command, environment=None, server_cpu=lambda: 0.0):
    """Runs a command to its end; gives what it printed and its sample.

    The peak is what the kernel says of the command and its descendants: the largest single process.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        server_before = server_cpu()
        began = time.monotonic()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env={**os.environ, **(environment or {})}
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        server = server_cpu() - server_before
        out.seek(0), err.seek(0)
        stdout = out.read().decode(errors="replace")
        if process.returncode != 0:
            said = err.read().decode(errors="replace")[-2000:] or stdout[-2000:]
            raise CommandFailed(f"{' '.join(map(str, command))}\nexit status {process.returncode}\n{said}")
    sample = Sample(
        seconds=seconds,
        client_cpu=usage.ru_utime + usage.ru_stime,
        server_cpu=server,
        peak_rss=usage.ru_maxrss * 1024,
    )
    return stdout, sample


def alternate(contenders, rounds, server_cpu=lambda: 0.0, say=print, before_round=lambda _number: None):
    """Lets every contender run once a round, each round beginning with another one; one round first to warm up."""
    for number in range(rounds + 1):
        before_round(number)
        shift = number % len(contenders)
        for contender in contenders[shift:] + contenders[:shift]:
            contender.prepare()
            os.sync()  # what the one before wrote is not this one's load
            stdout, sample = run(contender.command(), contender.environment, server_cpu)
            if contender.output is not None:
                sample.output_bytes = disk_bytes(contender.output)
            contender.after(stdout, sample)
            if number > 0:
                contender.samples.append(sample)
                say(f"  round {number}: {contender.name}: {sample.seconds:.2f} s")


def disk_bytes(path):
    """The sizes of a file, or of all files under a folder."""
    path = Path(path)
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def median(contender, value=lambda sample: sample.seconds):
    return statistics.median(value(sample) for sample in contender.samples)


def ratios(ours, peer, value=lambda sample: sample.seconds):
    """Peer over ours, round by round: median, least, most."""
    pairs = [value(p) / value(o) for o, p in zip(ours.samples, peer.samples, strict=True) if value(o) > 0]
    return (statistics.median(pairs), min(pairs), max(pairs)) if pairs else (float("nan"),) * 3


def least_visible_rss():
    """The kernel counts a child's peak from the fork on, so that it shows at least this process's own."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
