"""Writes results into docs/benchmarks.md: one section a benchmark, replaced in place."""

import dataclasses
import datetime
import os
import platform
import re
import subprocess
from pathlib import Path

from .measure import least_visible_rss, median, ratios

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "benchmarks.md"

HEAD = """# Benchmarks

Written by `scripts/bench`; anyone can run it. The contenders take turns on the same data in one run. Times are medians with
their range; *ratio* is the peer's time over ours, round by round (above 1: ours is faster). Processor seconds are those of
the command and of the server together; memory is the peak of the command's largest process. Ratios carry over to other
machines, times do not.
"""


def machine():
    """One line about where it ran."""

    def first(pattern, path):
        found = re.search(pattern, Path(path).read_text(encoding="utf-8"), flags=re.M)
        return found.group(1) if found else "unknown"

    memory = int(first(r"^MemTotal:\s+(\d+)", "/proc/meminfo")) / 2**20
    model = first(r"^model name\s*:\s*(.+)$", "/proc/cpuinfo")
    return f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB of memory, Linux {'.'.join(platform.release().split('.')[:2])}"


def version(*command):
    """The first line that a program says of its version."""
    said = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True).stdout
    return said.strip().splitlines()[0]


def cache():
    """Where scripts/setup-servers puts what no package manager installs."""
    fallback = "/var/cache/dm-test" if os.geteuid() == 0 else Path.home() / ".cache/dm-test"
    return Path(os.environ.get("DM_TEST_CACHE") or fallback)


def figures(contenders):
    """Every sample of every contender, for a JSON file."""
    return {contender.name: [dataclasses.asdict(sample) for sample in contender.samples] for contender in contenders}


def mib(size):
    return f"{size / 2**20:,.0f}"


def peak(contender):
    largest = max(sample.peak_rss for sample in contender.samples)
    floor = least_visible_rss()
    return mib(largest) if largest > floor else f"< {mib(floor)}"


def table(contenders):
    """The comparison; the first contender is ours."""
    ours = contenders[0]
    lines = [
        "| | median s (min–max) | ratio (min–max) | CPU s, client + server | peak MiB | stored MiB |",
        "|---|---|---|---|---|---|",
    ]
    for contender in contenders:
        seconds = [sample.seconds for sample in contender.samples]
        if contender is ours:
            ratio = "1"
        else:
            middle, least, most = ratios(ours, contender)
            ratio = f"**{middle:.2f}** ({least:.2f}–{most:.2f})"
        client = median(contender, lambda s: s.client_cpu)
        server = median(contender, lambda s: s.server_cpu)
        stored = median(contender, lambda s: s.output_bytes)
        lines.append(
            f"| {contender.name} | {median(contender):.2f} ({min(seconds):.2f}–{max(seconds):.2f}) | {ratio} "
            f"| {client + server:.1f} ({client:.1f} + {server:.1f}) "
            f"| {peak(contender)} | {mib(stored) if stored else '–'} |"
        )
    return "\n".join(lines)


def write(name, title, body):
    """Replaces the section of this name, or adds it."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    commit = version("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD")
    when = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    section = f"{begin}\n## {title}\n\n{body.strip()}\n\n{when}, commit {commit}; {machine()}.\n{end}"
    text = PAGE.read_text(encoding="utf-8") if PAGE.exists() else HEAD
    if begin in text:
        before, rest = text.split(begin, 1)
        text = before + section + rest.split(end, 1)[1]
    else:
        text = f"{text.rstrip()}\n\n{section}\n"
    PAGE.write_text(text, encoding="utf-8")
    print(f"\n{title}\n{body.strip()}\n(written to {PAGE.relative_to(ROOT)})")
