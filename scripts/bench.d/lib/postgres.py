"""A throwaway PostgreSQL server with the settings of a real one: fsync on, room for checkpoints."""

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

SETTINGS = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
shared_buffers = '512MB'
max_wal_size = '8GB'
checkpoint_timeout = '30min'
maintenance_work_mem = '256MB'
max_connections = 50
autovacuum = off
timezone = 'UTC'
"""

TICK = os.sysconf("SC_CLK_TCK")


class Server:
    """Use it in a `with`: it stops, and its folder goes, at the end."""

    def __init__(self, bin_dir, scratch, settings="", initdb_arguments=()):
        self.bin_dir = Path(bin_dir)
        self.settings = settings
        self.initdb_arguments = initdb_arguments
        self.folder = Path(tempfile.mkdtemp(prefix="pg-", dir=scratch))
        self.data = self.folder / "data"
        self.password = secrets.token_hex(16)
        self.user = None
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            self.user = next(name for name in ("postgres", "nobody") if any(u.pw_name == name for u in pwd.getpwall()))
            shutil.chown(self.folder, self.user)

    def __enter__(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        password_file = self.folder / "password"
        password_file.write_text(self.password, encoding="utf-8")
        password_file.chmod(0o644)
        self._as_user("initdb", "-D", self.data, "-U", "postgres", "--auth=scram-sha-256", "--encoding=UTF8",
                      "--locale=C.UTF-8", "--pwfile", password_file, *self.initdb_arguments)
        with open(self.data / "postgresql.conf", "a", encoding="utf-8") as conf:
            conf.write(SETTINGS + self.settings)
        self._as_user("pg_ctl", "start", "-w", "-t", "60", "-D", self.data, "-l", self.folder / "log",
                      "-o", f"-p {self.port}")
        return self

    def __exit__(self, *_):
        self._as_user("pg_ctl", "stop", "-w", "-m", "immediate", "-D", self.data)
        shutil.rmtree(self.folder)

    def _as_user(self, program, *arguments):
        command = [str(self.bin_dir / program), *map(str, arguments)]
        done = subprocess.run(command, user=self.user, group=self.user and pwd.getpwnam(self.user).pw_gid,
                              extra_groups=[] if self.user else None, cwd="/", stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{program}: {done.stderr}")

    @property
    def environment(self):
        """For the server's own client programs."""
        return {
            "PATH": f"{self.bin_dir}:{os.environ['PATH']}",
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.port),
            "PGUSER": "postgres",
            "PGPASSWORD": self.password,
        }

    def url(self, database):
        return f"postgres://postgres:{self.password}@127.0.0.1:{self.port}/{database}"

    def psql(self, database, sql):
        done = subprocess.run(
            [str(self.bin_dir / "psql"), "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", database, "-f", "-"],
            input=sql, env={**os.environ, **self.environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        if done.returncode != 0:
            raise RuntimeError(f"psql: {done.stderr}")
        return done.stdout.strip()

    def cpu_seconds(self):
        """Of the postmaster, of its ended children (which it has reaped), and of those that run."""
        postmaster = int((self.data / "postmaster.pid").read_text(encoding="utf-8").split()[0])
        total = 0
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                fields = (entry / "stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
            except (FileNotFoundError, ProcessLookupError):
                continue  # ended while we looked
            parent, times = int(fields[1]), [int(tick) for tick in fields[11:15]]
            if int(entry.name) == postmaster:
                total += sum(times)
            elif parent == postmaster:
                total += times[0] + times[1]
        return total / TICK


def end_on_sigterm():
    """Lets `with` blocks clean up when the benchmark is ended by a signal."""
    signal.signal(signal.SIGTERM, lambda *_: exit(143))
