"""pgbench with a shipper of the log beside it, and how far behind the shipper is."""

import os
import re
import signal
import subprocess
import tempfile
import time

SLOT = "dm_log"
SAMPLE = """SELECT extract(epoch FROM clock_timestamp()), pg_current_wal_flush_lsn() - '0/0',
    (SELECT restart_lsn - '0/0' FROM pg_replication_slots WHERE slot_name = '{slot}')
\\watch 0.25
"""


def pgbench_tps(server, database, seconds):
    done = subprocess.run(
        [server.bin_dir / "pgbench", "-n", "-c", "4", "-T", str(seconds), database],
        env={**os.environ, **server.environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=True)
    return float(re.search(r"^tps = ([0-9.]+)", done.stdout, flags=re.M).group(1))


class Watch:
    """Runs the shipper, if there is one, and looks four times a second where it is. Use it in a `with`."""

    def __init__(self, server, command):
        self.server, self.command = server, command
        self.shipper, self.peak_rss = None, 0

    def __enter__(self):
        self.said = tempfile.TemporaryFile()
        if self.command:
            self.shipper = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=self.said, stderr=self.said)
            self._wait(self._slot_is_there, "the shipper to make its slot")
        self.seen = tempfile.NamedTemporaryFile("r", encoding="utf-8")
        with open(self.seen.name, "w", encoding="utf-8") as out:
            self.psql = subprocess.Popen(
                [str(self.server.bin_dir / "psql"), "-XqAt", "-F", " ", "-d", "postgres"], stdin=subprocess.PIPE, stdout=out,
                env={**os.environ, **self.server.environment}, text=True)
        self.psql.stdin.write(SAMPLE.format(slot=SLOT))
        self.psql.stdin.flush()
        return self

    def __exit__(self, *_):
        self.psql.terminate()
        self.psql.wait()
        if self.shipper:
            self.shipper.send_signal(signal.SIGINT)
            _, _, usage = os.wait4(self.shipper.pid, 0)
            self.shipper.returncode = 0
            self.peak_rss = usage.ru_maxrss * 1024

    def until_shipped(self, end):
        """Until the slot says that everything up to here is safe elsewhere."""
        self._wait(lambda: int(self._slot() or 0) >= end, "the log to be shipped")

    def samples(self):
        found = []
        with open(self.seen.name, encoding="utf-8") as text:
            for line in text:
                fields = line.split()
                if len(fields) == 3:
                    found.append((float(fields[0]), int(fields[1]), int(fields[2])))
        return found

    def worst_lag(self):
        """The longest time for which something that was flushed was not yet safe elsewhere."""
        samples, worst, oldest = self.samples(), 0.0, 0
        for now, _, safe in samples:
            while oldest < len(samples) and samples[oldest][1] <= safe:
                oldest += 1
            if oldest < len(samples) and samples[oldest][0] < now:
                worst = max(worst, now - samples[oldest][0])
        return worst

    def wal_bytes(self):
        samples = self.samples()
        return samples[-1][1] - samples[0][1] if samples else 0

    def _slot(self):
        return self.server.psql("postgres", f"SELECT restart_lsn - '0/0' FROM pg_replication_slots WHERE slot_name = '{SLOT}'")

    def _slot_is_there(self):
        return bool(self._slot())

    def _wait(self, condition, what):
        deadline = time.monotonic() + 60
        while not condition():
            if self.shipper.poll() is not None or time.monotonic() > deadline:
                self.said.seek(0)
                raise RuntimeError(f"waited in vain for {what}: {self.said.read().decode(errors='replace')[-2000:]}")
            time.sleep(0.1)
