"""pgBackRest as a peer: two processes, zstd, a repository in a folder, no archiving."""

import os
import subprocess

from .ours import fresh


class PgBackRest:
    def __init__(self, folder, server, jobs, level):
        self.folder, self.server, self.jobs, self.level = folder, server, jobs, level
        self.repository = folder / "repository"
        self.config = folder / "pgbackrest.conf"

    def start_over(self):
        """An empty repository with its stanza."""
        fresh(self.folder)
        for name in ("repository", "log", "lock", "spool"):
            (self.folder / name).mkdir(parents=True)
        self.config.write_text(
            "[global]\n"
            f"repo1-path={self.repository}\nrepo1-retention-full=9\nlog-path={self.folder}/log\n"
            f"lock-path={self.folder}/lock\nspool-path={self.folder}/spool\nlog-level-console=error\n"
            f"process-max={self.jobs}\ncompress-type=zst\ncompress-level={self.level}\n"
            # The WAL archive is not what is compared: nothing waits for it.
            "start-fast=y\narchive-check=n\n"
            "[main]\n"
            f"pg1-path={self.server.data}\npg1-port={self.server.port}\npg1-socket-path={self.server.folder}\n"
            "pg1-user=postgres\n",
            encoding="utf-8",
        )
        subprocess.run(self.command("stanza-create"), check=True, env={**os.environ, **self.server.environment})

    def command(self, *more):
        return ["pgbackrest", f"--config={self.config}", "--stanza=main", *more]

    def backup(self, kind):
        return self.command(f"--type={kind}", "backup")

    def restore(self, to):
        """The latest backup into a new directory, without recovering it."""
        return self.command(f"--pg1-path={to}", "--type=none", "restore")
