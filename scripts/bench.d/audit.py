#!/usr/bin/env python3
"""What auditing costs, and how fast a log is sealed, verified and proven.

Capture: 16 clients that hold a transaction open for 5 ms after an UPDATE (pgbench), on a table whose changes are recorded and
taken over meanwhile, and on one without; in turns. At most 15 % of the transactions a second may be lost. And the same without
the pause: then the clients do nothing but changes, and what recording costs is limited by the processor alone.

The log: so many events appended and sealed (at least 50,000 a second), ten times as many verified (10 million in under 20 s
and 256 MiB), and an inclusion proof out of those (under 10 ms); each step a program of its own, on each kind of store.
"""

import argparse
import json
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from lib import measure, report
from lib.ours import DM
from lib.postgres import Server, end_on_sigterm

ROOT = Path(__file__).resolve().parents[2]
CLIENTS, HELD_MS, ROWS = 16, 5, 10_000
SCRIPT = """\\set id random(1, {rows})
BEGIN;
SET LOCAL dm.actor = 'alice';
UPDATE {table} SET balance = balance + 1, note = 'paid' WHERE id = :id;
{pause}COMMIT;
"""
PAUSE = f"\\sleep {HELD_MS} ms\n"


def transactions_per_second(server, scratch, table, pause, seconds):
    script = scratch / f"{table}.sql"
    script.write_text(SCRIPT.format(rows=ROWS, table=table, pause=pause), encoding="utf-8")
    stdout, _ = measure.run(
        ["pgbench", "-n", "-M", "prepared", "-c", str(CLIENTS), "-j", "2", "-T", str(seconds), "-f", script, "bench"],
        server.environment,
    )
    return float(next(line for line in stdout.splitlines() if line.startswith("tps")).split()[2])


def capture(server, scratch, rounds, seconds):
    """Gives lines of Markdown and whether the demand is met."""
    server.psql("postgres", "CREATE DATABASE bench")
    for table in ("plain", "captured"):
        server.psql("bench", f"CREATE TABLE {table} (id int PRIMARY KEY, balance bigint, note text, filler text)")
        server.psql("bench", f"INSERT INTO {table} SELECT i, 0, 'open', repeat('x', 80) FROM generate_series(1, {ROWS}) i")
    folder = scratch / "capture"
    folder.mkdir()
    (folder / "dm.toml").write_text(f'[engines.main]\nurl = "{server.url("bench")}"\n', encoding="utf-8")
    dm = [DM, "--config", str(folder / "dm.toml"), "audit", "capture"]
    subprocess.run([*dm, "install", "captured"], check=True, stdout=subprocess.DEVNULL, cwd=folder)

    def compare(pause):
        plain, captured = [], []
        for number in range(rounds):
            plain.append(transactions_per_second(server, scratch, "plain", pause, seconds))
            drain = subprocess.Popen([*dm, "drain", "--follow", "--quiet"], stdout=subprocess.DEVNULL, cwd=folder)
            try:
                captured.append(transactions_per_second(server, scratch, "captured", pause, seconds))
                behind = int(server.psql("bench", "SELECT count(*) FROM dm_capture.changes"))
            finally:
                drain.send_signal(signal.SIGTERM)
                drain.wait()
            print(f"  round {number + 1}: {plain[-1]:,.0f} without, {captured[-1]:,.0f} with; {behind:,} changes behind", file=sys.stderr)
            subprocess.run([*dm, "drain"], check=True, stdout=subprocess.DEVNULL, cwd=folder)
        losses = [100 * (1 - with_it / without) for without, with_it in zip(plain, captured)]
        loss = statistics.median(losses)
        said = (f"{statistics.median(plain):,.0f} transactions/s without, {statistics.median(captured):,.0f} with: "
                f"**{loss:.1f} % lost** ({min(losses):.1f}–{max(losses):.1f})")
        return said, loss

    said, loss = compare(PAUSE)
    lines = [f"| capture, {CLIENTS} clients, transactions held for {HELD_MS} ms | {said} | ≤ 15 % |"]
    said, _ = compare("")
    lines.append(f"| the same without a pause: the processor is the limit | {said} | – |")
    subprocess.run([DM, "--config", str(folder / "dm.toml"), "audit", "verify"], check=True, stdout=subprocess.DEVNULL, cwd=folder)
    return lines, loss <= 15


def steps(program, store, events, key, *names):
    stdout, sample = measure.run([program, store, str(events), key, *names])
    return json.loads(stdout), sample


def log(program, kind, make_store, scratch, sealed, verified):
    """Gives lines of Markdown and whether all demands are met."""
    lines, met = [], True

    def tell(what, figure, demand, good):
        nonlocal met
        met = met and good
        lines.append(f"| {what}, {kind} | {figure} | {demand} |")

    key = scratch / f"{kind}.key"
    store = make_store("log")
    made = scratch / f"{kind}-store"
    made.mkdir()
    (made / "dm.toml").write_text(f'[store]\nurl = "{store}"\n[audit]\nkey_file = "{key}"\n', encoding="utf-8")
    subprocess.run([DM, "--config", made / "dm.toml", "audit", "log"], check=True, stdout=subprocess.DEVNULL, cwd=made)
    said, _ = steps(program, store, sealed, key, "append")
    tell(f"{sealed:,} events appended", f"{said['append']['per_second']:,.0f} events/s", "–", True)
    said, sample = steps(program, store, sealed, key, "seal")
    rate = said["seal"]["per_second"]
    tell(f"{sealed:,} events sealed", f"**{rate:,.0f} events/s**, {report.mib(sample.peak_rss)} MiB", "≥ 50,000 events/s", rate >= 50_000)
    if verified > sealed:
        steps(program, store, verified - sealed, key, "append", "seal")
    said, sample = steps(program, store, verified, key, "verify")
    seconds, memory = said["verify"]["seconds"], sample.peak_rss / 2**20
    demanded = 20 * verified / 10_000_000
    tell(f"{verified:,} events verified", f"**{seconds:.1f} s**, {memory:,.0f} MiB", f"< {demanded:g} s, 256 MiB",
         seconds < demanded and memory < 256)
    said, _ = steps(program, store, verified, key, "prove")
    each = 1000 / said["prove"]["per_second"]
    tell(f"inclusion proof out of {verified:,}", f"**{each:.1f} ms**", "< 10 ms", each < 10)
    return lines, met


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of the capture comparison")
    parser.add_argument("--seconds", type=int, default=15, help="seconds of one contender in a round")
    parser.add_argument("--seal", type=int, default=1_000_000, help="events that are sealed")
    parser.add_argument("--verify", type=int, default=10_000_000, help="events that are verified")
    parser.add_argument("--stores", default="sqlite,postgres", help="kinds of store, separated by commas")
    parser.add_argument("--parts", default="capture,log", help="what is measured, separated by commas")
    parser.add_argument("--bin-dir", default="/usr/lib/postgresql/15/bin", help="PostgreSQL's programs")
    parser.add_argument("--scratch", help="where temporary files go")
    parser.add_argument("--no-page", action="store_true", help="prints the result and leaves docs/benchmarks.md alone")
    options = parser.parse_args()
    end_on_sigterm()
    subprocess.run(["cargo", "build", "--release", "--locked", "-p", "dm-audit", "--example", "log_speed"], check=True, cwd=ROOT)
    target = json.loads(subprocess.run(["cargo", "metadata", "--format-version", "1", "--no-deps"], check=True, cwd=ROOT,
                                       stdout=subprocess.PIPE).stdout)["target_directory"]
    program = Path(target) / "release" / "examples" / "log_speed"
    scratch = Path(tempfile.mkdtemp(prefix="bench-audit-", dir=options.scratch))
    scratch.chmod(0o755)
    try:
        lines, met = ["| | measured | demanded |", "|---|---|---|"], True
        with Server(options.bin_dir, scratch, "autovacuum = on\n") as server:
            parts = options.parts.split(",")
            if "capture" in parts:
                more, good = capture(server, scratch, options.rounds, options.seconds)
                lines += more
                met = met and good
            kinds = {
                "sqlite": lambda name: str(scratch / f"{name}.db"),
                "postgres": lambda name: server.psql("postgres", f"CREATE DATABASE {name}") or server.url(name),
            }
            for kind in options.stores.split(",") if "log" in parts else []:
                more, good = log(program, kind, kinds[kind], scratch, options.seal, options.verify)
                lines += more
                met = met and good
        body = "\n".join(lines)
        if options.no_page:
            print(body)
        else:
            report.write("audit", "Audit", body)
        print("every demand is met" if met else "a demand is NOT met", file=sys.stderr)
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
