#!/usr/bin/env python3
"""Backup and restore, side by side with what people use today.

PostgreSQL, logical: pg_dump -Fd -j2 as people run it (gzip), and bare parallel `COPY | zstd -3` pipes; pg_restore -j2.
SQLite: `.backup` followed by zstd -3 -T2; then a second backup after 1 % of the pages changed.
"""

import argparse
import json
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

from lib import measure, ours, report
from lib.measure import Contender, alternate, disk_bytes, median
from lib.ours import DM, find, fresh
from lib.postgres import Server, end_on_sigterm
from lib.tables import make_table

HERE = Path(__file__).resolve().parent
JOBS, LEVEL = 2, 3

def our_config(folder, url):
    return ours.config(folder, url, LEVEL)


def our_backup(config, *more):
    return ours.backup(config, JOBS, *more)


def make_balanced(server, database, scale):
    for number in range(8):
        make_table(server, database, f"part_{number}", scale * 2**30 / 8)


def make_giant(server, database, scale):
    make_table(server, database, "giant", scale * 2**30)
    for number in range(6):
        make_table(server, database, f"small_{number}", scale * 2**30 / 200)


def postgres_backup(server, database, scratch, rounds):
    folder, dump, pipes = scratch / "ours", scratch / "dump", scratch / "pipes"
    contenders = [
        Contender(
            "dm backup run --jobs 2",
            lambda: our_backup(folder / "dm.toml", "--kind", "full"),
            prepare=lambda: our_config(folder, server.url(database)),
            output=folder / "repository",
            environment=server.environment,
        ),
        Contender(
            "pg_dump -Fd -j2 (gzip)",
            lambda: ["pg_dump", "-Fd", f"-j{JOBS}", "-f", dump, database],
            prepare=lambda: fresh(dump),
            output=dump,
            environment=server.environment,
        ),
        Contender(
            "bare COPY \\| zstd -3 pipes",
            lambda: [HERE / "copy_pipes.sh", database, pipes, str(JOBS), str(LEVEL)],
            prepare=lambda: fresh(pipes),
            output=pipes,
            environment=server.environment,
        ),
    ]
    alternate(contenders, rounds, server.cpu_seconds)
    return contenders


def postgres_restore(server, database, scratch, rounds):
    """Restores what the last round of `postgres_backup` left."""

    def drop(name):
        server.psql("postgres", f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def empty(name):
        drop(name)
        server.psql("postgres", f'CREATE DATABASE "{name}" TEMPLATE template0')

    def keep_comparison(stdout, sample):
        sample.notes["comparison"] = (find(json.loads(stdout), "comparison_ms") or 0) / 1000
        if find(json.loads(stdout), "equal") is not True:
            raise measure.CommandFailed("the restored database was not proven equal")

    config = scratch / "ours" / "dm.toml"
    contenders = [
        Contender(
            "dm restore --jobs 2, with its proof",
            lambda: [DM, "--config", config, "restore", "latest", "--to", "restored_ours",
                     "--jobs", str(JOBS), "--yes", "--json"],
            prepare=lambda: drop("restored_ours"),
            after=keep_comparison,
            environment=server.environment,
        ),
        Contender(
            "pg_restore -j2",
            lambda: ["pg_restore", f"-j{JOBS}", "-d", "restored_peer", scratch / "dump"],
            prepare=lambda: empty("restored_peer"),
            environment=server.environment,
        ),
    ]
    alternate(contenders, rounds, server.cpu_seconds)
    for name in ("restored_ours", "restored_peer"):
        drop(name)
    return contenders


def restore_words(contenders):
    mine, peer = contenders
    proof = median(mine, lambda s: s.notes["comparison"])
    middle, least, most = measure.ratios(mine, peer, lambda s: s.seconds - s.notes.get("comparison", 0))
    return (
        f"Our time includes {proof:.2f} s (median) in which every restored row is read again and compared with the digests "
        f"of the backup; pg_restore proves nothing. Without that comparison the ratio is **{middle:.2f}** "
        f"({least:.2f}–{most:.2f})."
    )


def run_postgres(args, scratch):
    schemas = {
        "balanced": (make_balanced, "eight tables of equal size"),
        "giant": (make_giant, "one giant table among six small ones"),
    }
    with Server(args.bin_dir, scratch) as server:
        peer = report.version(str(Path(args.bin_dir) / "pg_dump"), "--version")
        for schema, (make, words) in schemas.items():
            if args.only and args.only != f"postgres-{schema}":
                continue
            print(f"postgres, {words}: making {args.scale} GiB", flush=True)
            server.psql("postgres", f"CREATE DATABASE {schema}")
            make(server, schema, args.scale)
            server.psql(schema, "VACUUM (ANALYZE, FREEZE)")
            server.psql("postgres", "CHECKPOINT")
            size = int(server.psql("postgres", f"SELECT pg_database_size('{schema}')")) / 2**30
            data = f"{size:.1f} GiB with indexes, {words}; {peer}; zstd level {LEVEL}, {JOBS} jobs, {args.rounds} rounds."
            backups = postgres_backup(server, schema, scratch, args.rounds)
            report.write(f"backup-postgres-{schema}", f"PostgreSQL backup: {words}",
                         f"{data}\n\n{report.table(backups)}")
            restores = postgres_restore(server, schema, scratch, args.rounds)
            report.write(f"restore-postgres-{schema}", f"PostgreSQL restore: {words}",
                         f"{data}\n\n{report.table(restores)}\n\n{restore_words(restores)}")
            server.psql("postgres", f"DROP DATABASE {schema}")


def make_sqlite(path, size):
    path.unlink(missing_ok=True)
    rows = int(size / 130)
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, user_id INTEGER, status TEXT, amount REAL, token TEXT, note TEXT)")
        db.executemany(
            "INSERT INTO orders VALUES (?, ?, ?, ?, ?, ?)",
            (
                (i, i * 2654435761 % 1048576, ("new", "paid", "shipped", "returned")[i % 4], i % 100000 / 7,
                 f"{i * 11400714819323198485 % 2**64:016x}{i * 14029467366897019727 % 2**64:016x}",
                 f"order {i} for customer {i % 9973} by post")
                for i in range(1, rows + 1)
            ),
        )
    db.close()
    return rows


def change_pages(path, rows, share):
    """Updates one row in each of this share of the table's pages, spread evenly, without growing it."""
    with sqlite3.connect(path) as db:
        (pages,) = db.execute("PRAGMA page_count").fetchone()
        count = int(pages * share)
        db.executemany("UPDATE orders SET amount = amount + 1 WHERE id = ?",
                       ((1 + n * rows // count,) for n in range(count)))
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    return count, pages


def run_sqlite(args, scratch):
    if args.only and args.only != "sqlite":
        return
    database, folder, copy = scratch / "shop.db", scratch / "ours-sqlite", scratch / "copy.db"
    print(f"sqlite: making {args.scale / 2} GiB", flush=True)
    rows = make_sqlite(database, args.scale * 2**30 / 2)

    def clear_copy():
        for file in (copy, Path(f"{copy}.zst")):
            file.unlink(missing_ok=True)

    contenders = [
        Contender(
            "dm backup run",
            lambda: our_backup(folder / "dm.toml", "--kind", "full"),
            prepare=lambda: our_config(folder, f"sqlite:{database}"),
            output=folder / "repository",
        ),
        Contender(
            ".backup, then zstd -3 -T2",
            lambda: ["bash", "-c", 'sqlite3 "$0" ".backup \'$1\'" && zstd -q -3 -T2 --rm "$1"', database, copy],
            prepare=clear_copy,
            output=Path(f"{copy}.zst"),
        ),
    ]
    alternate(contenders, args.rounds)
    size = database.stat().st_size / 2**30
    data = f"{size:.1f} GiB; sqlite3 {report.version('sqlite3', '--version').split()[0]}; zstd level {LEVEL}, {args.rounds} rounds."

    first = disk_bytes(folder / "repository")
    changed, pages = change_pages(database, rows, 0.01)
    stdout, sample = measure.run(our_backup(folder / "dm.toml", "--kind", "incremental"))
    second = disk_bytes(folder / "repository") - first
    if find(json.loads(stdout), "kind") == "full":
        raise measure.CommandFailed("the second backup was not an incremental one")
    words = (
        f"Second backup, incremental, after {changed:,} of {pages:,} pages changed: {second / 2**20:.1f} MiB stored, "
        f"**{second / first:.1%}** of the first's {first / 2**20:.0f} MiB; {sample.seconds:.2f} s, "
        f"peak {sample.peak_rss / 2**20:.0f} MiB."
    )
    report.write("backup-sqlite", "SQLite backup", f"{data}\n\n{report.table(contenders)}\n\n{words}")


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench backup", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds, after one to warm up (default: 5)")
    parser.add_argument("--scale", type=float, default=1.25, help="GiB of table data (default: 1.25)")
    parser.add_argument("--only", choices=["postgres-balanced", "postgres-giant", "sqlite"], help="just this one")
    parser.add_argument("--bin-dir", default="/usr/lib/postgresql/15/bin", help="PostgreSQL's programs")
    parser.add_argument("--scratch", default=None, help="folder for databases and backups: some 8 times the scale")
    args = parser.parse_args()
    if not DM.is_file():
        sys.exit(f"{DM} is missing: cargo build --release --bin dm")
    end_on_sigterm()
    scratch = Path(tempfile.mkdtemp(prefix="dm-bench-", dir=args.scratch))
    scratch.chmod(0o755)
    try:
        if args.only != "sqlite":
            run_postgres(args, scratch)
        run_sqlite(args, scratch)
    except (measure.CommandFailed, subprocess.CalledProcessError) as error:
        sys.exit(f"bench backup: {error}")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
