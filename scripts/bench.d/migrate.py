#!/usr/bin/env python3
"""Migrations against stock sqlx-cli, and what a backfill costs the application.

`up`: a folder of 500 migrations into an empty database, and then the same command when nothing is pending, in turns with
`sqlx migrate run`; PostgreSQL and SQLite. Ours is to be no slower.

`backfill`: a column of 5 million rows is filled under pgbench on the same table. No transaction of pgbench may fail, and the 99th
percentile of its latencies may be at most twice that of the time before.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lib import measure, report
from lib.measure import Contender
from lib.ours import DM, fresh
from lib.postgres import Server, end_on_sigterm

CLIENTS = 8
# Half of the statements read a row and half write one, of the table that is being filled.
TRAFFIC = """\\set id random(1, {rows})
SELECT email FROM users WHERE id = :id;
UPDATE users SET seen = seen + 1 WHERE id = :id;
"""


def write_migrations(folder, count):
    """Small migrations as people write them: a table, and then columns, indexes and rows for it."""
    folder.mkdir()
    for number in range(1, count + 1):
        table = f"t{(number - 1) // 5}"
        text = [
            f"CREATE TABLE {table} (id bigint PRIMARY KEY, name text NOT NULL, note text DEFAULT 'it''s; new');",
            f"ALTER TABLE {table} ADD COLUMN more text;",
            f"-- found by name\nCREATE INDEX {table}_name ON {table} (name);",
            f"INSERT INTO {table} (id, name) VALUES (1, 'a'), (2, 'b');\nUPDATE {table} SET more = name;",
            f"CREATE VIEW {table}_named AS SELECT id, name FROM {table} WHERE name <> '';",
        ][(number - 1) % 5]
        (folder / f"{20260101000000 + number}_step_{number}.sql").write_text(text + "\n", encoding="utf-8")


def contenders(scratch, sqlx, url, empty, folder):
    """Ours and the peer, each into a database of its own that `empty` empties; the first two from nothing, the others with nothing
    to do."""

    def ours():
        home = scratch / "ours"
        fresh(home)
        home.mkdir()
        (home / "dm.toml").write_text(f'[engines.main]\nurl = "{url("ours")}"\n[migrate]\nfolder = "{folder}"\n', encoding="utf-8")
        # The system's own state is there, as it is for whoever uses it.
        subprocess.run([DM, "--config", home / "dm.toml", "audit", "log"], check=True, stdout=subprocess.DEVNULL, cwd=home)
        empty("ours")

    dm = [DM, "--config", scratch / "ours" / "dm.toml", "migrate", "up"]
    peer = [sqlx, "migrate", "run", "--source", folder, "--database-url", url("theirs")]
    first = [Contender("dm migrate up", lambda: dm, ours), Contender("sqlx migrate run", lambda: peer, lambda: empty("theirs"))]
    again = [Contender("dm migrate up", lambda: dm), Contender("sqlx migrate run", lambda: peer)]
    return first, again


def compare(scratch, sqlx, engine, url, empty, count, options, cpu=lambda: 0.0):
    """Gives Markdown, and whether ours was no slower."""
    folder = scratch / f"migrations-{engine}"
    write_migrations(folder, count)
    first, again = contenders(scratch, sqlx, url, empty, folder)
    measure.alternate(first, options.rounds, cpu, say=lambda line: print(line, file=sys.stderr))
    measure.alternate(again, options.rounds, cpu, say=lambda line: print(line, file=sys.stderr))
    body = f"{engine}, {count} pending:\n\n{report.table(first)}\n\n{engine}, nothing pending:\n\n{report.table(again)}\n"
    return body, measure.ratios(*first)[0] >= 1


def on_sqlite(scratch, sqlx, options):
    def empty(name):
        for file in scratch.glob(f"{name}.db*"):
            file.unlink()
        (scratch / f"{name}.db").touch()

    return compare(scratch, sqlx, "SQLite", lambda name: f"sqlite://{scratch}/{name}.db", empty, options.migrations, options)


def on_postgres(scratch, sqlx, server, options):
    def empty(name):
        server.psql("postgres", f"DROP DATABASE IF EXISTS {name}")
        server.psql("postgres", f"CREATE DATABASE {name}")

    return compare(scratch, sqlx, "PostgreSQL", server.url, empty, options.migrations, options, server.cpu_seconds)


class Traffic:
    """pgbench on the table, at a steady rate, until `end`; its own log has the latency of each transaction."""

    def __init__(self, server, scratch, name, rows, rate, seconds):
        script = scratch / "traffic.sql"
        script.write_text(TRAFFIC.format(rows=rows), encoding="utf-8")
        self.prefix = scratch / f"traffic-{name}"
        command = [server.bin_dir / "pgbench", "-n", "-M", "prepared", "-c", str(CLIENTS), "-j", "1", "-T", str(seconds),
                   "-R", str(rate), "-l", "--log-prefix", self.prefix, "-f", script, "bench"]
        environment = {**os.environ, **server.environment}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

    def end(self):
        """Gives the latencies in milliseconds and how many transactions failed; those that began after the call do not count."""
        self.process.send_signal(signal.SIGINT)
        _, said = self.process.communicate()
        latencies, failed = [], 0
        for file in self.prefix.parent.glob(f"{self.prefix.name}.*"):
            for line in file.read_text(encoding="utf-8").splitlines():
                fields = line.split()
                if len(fields) < 6:
                    continue  # cut off by the end
                if fields[2].isdigit():
                    latencies.append(int(fields[2]) / 1000)
                else:
                    failed += 1
        # A client that an error ended says so, and is not in the log.
        failed += sum("ERROR" in line or "aborted" in line for line in said.splitlines())
        return latencies, failed


def percentile(values, part):
    return statistics.quantiles(values, n=100)[part - 1]


def backfill(scratch, server, options):
    """Gives Markdown, and whether the demands are met."""
    rows = options.rows
    server.psql("postgres", "CREATE DATABASE bench")
    server.psql("bench", "CREATE TABLE users (id bigint PRIMARY KEY, email text, seen int, email_lower text)")
    server.psql("bench", f"INSERT INTO users SELECT i, 'User' || i || '@Example.com', 0 FROM generate_series(1, {rows}) i")
    server.psql("bench", "VACUUM (ANALYZE, FREEZE) users")
    server.psql("bench", "CHECKPOINT")
    home = scratch / "backfill"
    home.mkdir()
    (home / "dm.toml").write_text(f'[engines.main]\nurl = "{server.url("bench")}"\n', encoding="utf-8")
    command = [DM, "--config", home / "dm.toml", "migrate", "backfill", "lower-email", "--table", "users", "--set",
               "email_lower = lower(email)", "--json", "--quiet", *options.pace]

    before = Traffic(server, scratch, "before", rows, options.rate, options.seconds)
    before.process.wait()
    alone, failed_alone = before.end()

    traffic = Traffic(server, scratch, "during", rows, options.rate, 3600)
    time.sleep(2)  # both clients' connections are there
    stdout, sample = measure.run(command, server_cpu=server.cpu_seconds)
    during, failed = traffic.end()
    done = json.loads(stdout)["backfill"]
    left = server.psql("bench", "SELECT count(*) FROM users WHERE email_lower IS DISTINCT FROM lower(email)")
    assert left == "0" and done["progress"]["seen_rows"] == rows, f"{left} rows are not filled: {done}"
    p99 = percentile(during, 99) / percentile(alone, 99)

    def row(name, values, failures):
        return f"| {name} | {len(values):,} | {percentile(values, 50):.2f} | {percentile(values, 99):.2f} | {max(values):.0f} | {failures} |"

    body = "\n".join([
        f"{rows:,} rows filled in {sample.seconds:.0f} s ({rows / sample.seconds:,.0f} rows/s), {done['portions']:,} portions, the longest "
        f"{done['longest_ms']} ms; peak memory {report.mib(sample.peak_rss)} MiB. Beside it pgbench, {CLIENTS} clients, {options.rate} "
        "transactions a second (a read and an update of one row of that table each):",
        "",
        "| | transactions | p50 ms | p99 ms | longest ms | failed |",
        "|---|---|---|---|---|---|",
        row("before", alone, failed_alone),
        row("while it is filled", during, failed),
        "",
        f"p99: **{p99:.2f}×** (at most 2×); failed transactions: **{failed}** (none).",
    ])
    return body, p99 <= 2 and failed == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="sqlite,postgres,backfill", help="parts, separated by commas")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of the comparison")
    parser.add_argument("--migrations", type=int, default=500, help="files of the comparison")
    parser.add_argument("--rows", type=int, default=5_000_000, help="rows that are filled")
    parser.add_argument("--pace", type=str.split, default=[], help="flags of the backfill, in one word: '--batch 500 --pause 100ms'")
    parser.add_argument("--rate", type=int, default=500, help="transactions a second beside the backfill")
    parser.add_argument("--seconds", type=int, default=30, help="seconds of traffic before the backfill")
    parser.add_argument("--bin-dir", default="/usr/lib/postgresql/15/bin", help="PostgreSQL's programs")
    parser.add_argument("--scratch", help="where temporary files go")
    parser.add_argument("--no-page", action="store_true", help="prints the result and leaves docs/benchmarks.md alone")
    options = parser.parse_args()
    end_on_sigterm()
    parts = options.only.split(",")
    sqlx = report.cache() / "bin" / "sqlx"
    scratch = Path(tempfile.mkdtemp(prefix="bench-migrate-", dir=options.scratch))
    scratch.chmod(0o755)
    met = True

    def tell(name, title, result):
        nonlocal met
        body, good = result
        met = met and good
        if options.no_page:
            print(body)
        else:
            report.write(name, title, body)

    try:
        peer = f"against {report.version(sqlx, '--version')}, {options.rounds} rounds"
        if "sqlite" in parts:
            tell("migrate-sqlite", f"Migrations on SQLite, {peer}", on_sqlite(scratch, sqlx, options))
        if "postgres" in parts or "backfill" in parts:
            with Server(options.bin_dir, scratch) as server:
                if "postgres" in parts:
                    tell("migrate-postgres", f"Migrations on PostgreSQL, {peer}", on_postgres(scratch, sqlx, server, options))
                if "backfill" in parts:
                    tell("migrate-backfill", "Backfill under pgbench", backfill(scratch, server, options))
        print("every demand is met" if met else "a demand is NOT met", file=sys.stderr)
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
