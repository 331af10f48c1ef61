#!/usr/bin/env python3
"""An independent reader of shipped log in a local folder, after docs/repository-format.md, section 12.

usage: read_log.py REPOSITORY TARGET STREAM TIMELINE START END [IDENTITY_FILE]
(prints the bytes START to END of the log, offsets in hexadecimal; fails when one of them is not there)

Needs only the standard library, `zstd`, and for encrypted repositories `age`. It checks no digests: BLAKE3 is not in the
standard library.
"""
import os
import subprocess
import sys
import tempfile

root, target, stream, timeline = sys.argv[1:5]
at, end = int(sys.argv[5], 16), int(sys.argv[6], 16)
identity = sys.argv[7] if len(sys.argv) > 7 else None

keys = tempfile.NamedTemporaryFile()
if identity:
    # The keys of the log, each in an age file to the recipients of a generation; the identity that it was given opens what was
    # sealed before there were any.
    with open(identity, "rb") as f:
        keys.write(f.read() + b"\n")
    for folder, _, files in os.walk(os.path.join(root, "log-keys")):
        for file in sorted((f for f in files if f.endswith(".age")), reverse=True):
            opened = subprocess.run(["age", "-d", "-i", identity, os.path.join(folder, file)], capture_output=True)
            if opened.returncode == 0:
                keys.write(opened.stdout)
                break
    keys.flush()

pieces = []
for folder, _, files in os.walk(os.path.join(root, "logs", target, stream, f"{int(timeline):08X}")):
    for file in files:
        if file.startswith("history-"):
            continue
        first, last, _, _ = file.removesuffix(".log").split("-")
        pieces.append((int(first, 16), int(last, 16), os.path.join(folder, file)))

while at < end:
    covering = [p for p in pieces if p[0] <= at < p[1]]
    if not covering:
        sys.exit(f"the log has a hole at {at:X}")
    first, last, path = covering[0]
    with open(path, "rb") as f:
        data = f.read()
    if identity:
        data = subprocess.run(["age", "-d", "-i", keys.name], input=data, stdout=subprocess.PIPE, check=True).stdout
    data = subprocess.run(["zstd", "-d"], input=data, stdout=subprocess.PIPE, check=True).stdout
    assert len(data) == last - first, path
    sys.stdout.buffer.write(data[at - first:min(end, last) - first])
    at = last
