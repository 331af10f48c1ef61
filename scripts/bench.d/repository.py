#!/usr/bin/env python3
"""The repository against restic, on the same file, in a local folder, both encrypted, both at zstd's level of restic's default.

A SQLite file is backed up: by `dm backup run`, which reads it page by page, and by `restic backup` of the same file (at rest).
Full backup, a second one with nothing changed, restore of the newest. Then the listing of many backups in a store with a
simulated round trip (`--listing N`), where the S3 emulator of the tests is there.

Needs Debian's `restic` (apt-get install restic), 0.14 or later: before that it does not compress.
"""

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from backup import make_sqlite
from lib import measure, report
from lib.measure import Contender, alternate
from lib.ours import DM, fresh
from lib.postgres import end_on_sigterm

# restic's "auto" is zstd's fastest named level, which klauspost/compress calls default and compares with zstd -3.
LEVEL = 3
JOBS = 2


class Places:
    def __init__(self, scratch, database):
        self.scratch, self.database = scratch, database
        self.ours, self.restic = scratch / "ours", scratch / "restic"
        self.environment = {
            "RESTIC_REPOSITORY": str(self.restic),
            "RESTIC_PASSWORD": "bench",
            "RESTIC_CACHE_DIR": str(scratch / "cache"),
            "GOMAXPROCS": str(os.cpu_count()),
        }

    def dm(self, *words):
        return [DM, "--config", self.ours / "dm.toml", *words]

    def new_ours(self):
        fresh(self.ours)
        self.ours.mkdir()
        config = self.ours / "dm.toml"
        key = self.ours / "dm.key"
        config.write_text(f'[engines.main]\nurl = "sqlite:{self.database}"\n', encoding="utf-8")
        config.chmod(0o600)
        made = subprocess.run(
            self.dm("backup", "key", "new", "--out", key, "--json"), check=True, capture_output=True, text=True
        )
        recipient = next(value for value in walk(json.loads(made.stdout)) if str(value).startswith("age1"))
        config.write_text(
            f'[engines.main]\nurl = "sqlite:{self.database}"\n\n[repository]\nurl = "file://{self.ours}/repository"\n'
            f'encryption = true\nrecipients = ["{recipient}"]\nidentity_files = ["{key}"]\n'
            f'index_identity_file = "{key}.index"\nzstd_level = {LEVEL}\n',
            encoding="utf-8",
        )

    def new_restic(self):
        fresh(self.restic)
        fresh(self.scratch / "cache")
        subprocess.run(["restic", "init", "-q"], check=True, env={**os.environ, **self.environment})

    def backup(self, kind):
        return self.dm("backup", "run", "--kind", kind, "--jobs", str(JOBS), "--no-verify", "--json")


def walk(document):
    if isinstance(document, (dict, list)):
        for part in document.values() if isinstance(document, dict) else document:
            yield from walk(part)
    else:
        yield document


def compare(places, rounds):
    """Full, unchanged, restore: each pair in turns on the same file."""
    full = [
        Contender("dm backup run", lambda: places.backup("full"), prepare=places.new_ours, output=places.ours / "repository"),
        Contender("restic backup", lambda: ["restic", "backup", "-q", places.database], prepare=places.new_restic,
                  output=places.restic, environment=places.environment),
    ]
    alternate(full, rounds)
    unchanged = [
        Contender("dm backup run --kind incremental", lambda: places.backup("incremental")),
        Contender("restic backup --force (reads the file)", lambda: ["restic", "backup", "-q", "--force", places.database],
                  environment=places.environment),
        Contender("restic backup (looks at size and times)", lambda: ["restic", "backup", "-q", places.database],
                  environment=places.environment),
    ]
    alternate(unchanged, rounds)
    ours, theirs = places.scratch / "restored.db", places.scratch / "restored"
    restore = [
        Contender("dm restore", lambda: places.dm("restore", "latest", "--to", ours, "--yes", "--json"),
                  prepare=lambda: ours.unlink(missing_ok=True), output=ours),
        Contender("restic restore", lambda: ["restic", "restore", "latest", "-q", "--target", theirs],
                  prepare=lambda: fresh(theirs), output=theirs, environment=places.environment),
    ]
    alternate(restore, rounds)
    check = "SELECT count(*), total(amount), min(token), max(token) FROM orders"
    copies = [places.database, ours, theirs / places.database.relative_to("/")]
    said = {subprocess.run(["sqlite3", copy, check], check=True, capture_output=True, text=True).stdout for copy in copies}
    if len(said) != 1:
        raise measure.CommandFailed(f"what was restored differs: {said}")
    return full, unchanged, restore


class Door:
    """Passes bytes on, what a client asks after a round trip's time; requests of several connections wait side by side."""

    METHODS = (b"GET ", b"HEAD ", b"PUT ", b"POST ", b"DELETE ")

    def __init__(self, host, port, trip):
        self.upstream, self.trip, self.requests = (host, port), trip, 0
        self.loop = asyncio.new_event_loop()
        server = self.loop.run_until_complete(
            asyncio.start_server(self.serve, "127.0.0.1", 0, backlog=1024)
        )
        self.port = server.sockets[0].getsockname()[1]
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    async def serve(self, client, answers):
        requests, server = None, None
        try:
            server, requests = await asyncio.open_connection(*self.upstream)
            await asyncio.gather(self.ask(client, requests), self.pass_on(server, answers))
        except OSError:
            pass  # Whoever hung up is answered by the other side.
        finally:
            for writer in (requests, answers):
                if writer:
                    writer.close()

    async def ask(self, client, requests):
        while asked := await client.read(1 << 16):
            if asked.startswith(self.METHODS):
                self.requests += 1
                await asyncio.sleep(self.trip)
            requests.write(asked)
            await requests.drain()
        requests.close()

    async def pass_on(self, server, answers):
        while answered := await server.read(1 << 16):
            answers.write(answered)
            await answers.drain()
        answers.close()


def listing(args, places):
    """Lists many backups through a proxy that takes a round trip for every request."""
    if not args.s3:
        return "Listing was not measured: name an S3 endpoint with --s3."
    host, port = args.s3.removeprefix("http://").split(":")
    small = places.scratch / "small.db"
    make_sqlite(small, 50_000)

    def config(endpoint):
        path = places.scratch / "listing.toml"
        path.write_text(
            f'[engines.main]\nurl = "sqlite:{small}"\n\n[repository]\nurl = "s3://{args.bucket}/bench-{os.getpid()}"\n'
            f'endpoint = "{endpoint}"\nregion = "us-east-1"\nallow_http = true\nzstd_level = {LEVEL}\nencryption = false\n',
            encoding="utf-8",
        )
        path.chmod(0o600)
        return path

    direct = config(args.s3)
    for number in range(args.listing):
        subprocess.run([DM, "--config", direct, "backup", "run", "--no-verify", "--json"], check=True, stdout=subprocess.DEVNULL)
        if number % 100 == 99:
            print(f"  {number + 1} backups", flush=True)
    door = Door(host, int(port), args.trip / 1000)
    slow = config(f"http://127.0.0.1:{door.port}")
    contender = Contender("dm backup list", lambda: [DM, "--config", slow, "backup", "list", "--json"])
    alternate([contender], args.rounds)
    requests = door.requests // (args.rounds + 1)
    seconds = measure.median(contender)
    return (
        f"Listing of {args.listing:,} backups in an S3 store, each request taking {args.trip} ms more: **{seconds:.2f} s**, "
        f"{requests:,} requests."
    )


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench repository", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds, after one to warm up (default: 5)")
    parser.add_argument("--scale", type=float, default=1.0, help="GiB of the file (default: 1)")
    parser.add_argument("--scratch", default=None, help="folder for the file and the repositories: some 6 times the scale")
    parser.add_argument("--s3", default=None, help="endpoint for the listing, http://127.0.0.1:9000 (keys from AWS_*)")
    parser.add_argument("--bucket", default="dm-bench", help="its bucket (default: dm-bench)")
    parser.add_argument("--listing", type=int, default=1000, help="backups to list (default: 1000)")
    parser.add_argument("--trip", type=int, default=20, help="milliseconds that each request takes more (default: 20)")
    parser.add_argument("--listing-only", action="store_true", help="only the listing, into a section of its own")
    parser.add_argument("--dm", default=None, help="another dm than the release build")
    args = parser.parse_args()
    if args.dm:
        globals()["DM"] = Path(args.dm)
    if not DM.is_file():
        sys.exit(f"{DM} is missing: cargo build --release --bin dm")
    if args.listing_only and not args.s3:
        sys.exit("bench repository: --listing-only needs the endpoint of an S3 store: --s3 http://127.0.0.1:9000")
    if not args.listing_only and not shutil.which("restic"):
        sys.exit("bench repository: restic is missing: apt-get install restic (0.14 or later)")
    end_on_sigterm()
    scratch = Path(tempfile.mkdtemp(prefix="dm-bench-", dir=args.scratch))
    try:
        database = scratch / "shop.db"
        if args.listing_only:
            report.write("repository-listing", "Repository: listing many backups", listing(args, Places(scratch, database)))
            return
        print(f"repository: making {args.scale} GiB", flush=True)
        make_sqlite(database, args.scale * 2**30)
        places = Places(scratch, database)
        full, unchanged, restore = compare(places, args.rounds)
        size = database.stat().st_size / 2**30
        data = (
            f"One SQLite file of {size:.2f} GiB in a local folder, encrypted; zstd level {LEVEL} and restic's `auto`; "
            f"{report.version('restic', 'version')}; {args.rounds} rounds."
        )
        body = "\n\n".join(
            [data, "Full backup:", report.table(full), "Second backup, nothing changed (restic believes the file's size and times unless told otherwise; ours compares every page of a consistent copy):", report.table(unchanged),
             "Restore of the newest, compared afterwards by a query to every copy (ours proves it before it is released as well):",
             report.table(restore), listing(args, places)]
        )
        report.write("repository", "Repository, against restic", body)
    except (measure.CommandFailed, subprocess.CalledProcessError) as error:
        sys.exit(f"bench repository: {error}")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
