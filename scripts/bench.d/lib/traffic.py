"""Bytes that crossed the loopback interface: what a client read from a server on the same machine, headers included."""

from pathlib import Path


def loopback_bytes():
    for line in Path("/proc/net/dev").read_text(encoding="utf-8").splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == "lo":
            return int(counters.split()[0])
    return 0
