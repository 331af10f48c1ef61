#!/usr/bin/env python3
"""An independent reader of a repository in a local folder, after docs/repository-format.md.

usage: read_backup.py REPOSITORY TARGET BACKUP MEMBER [IDENTITY_FILE]      (prints the member's bytes)

Needs only the standard library, `zstd`, and for encrypted repositories `age`. It checks no digests: BLAKE3 is not in the
standard library. What it proves is that the bytes can be found and read by the page alone.
"""
import json
import os
import subprocess
import sys
import tempfile

root, target, backup, wanted = sys.argv[1:5]
identity = sys.argv[5] if len(sys.argv) > 5 else None
own_key = {}


def run(command, data):
    return subprocess.run(command, input=data, stdout=subprocess.PIPE, check=True).stdout


def read(path):
    with open(os.path.join(root, path), "rb") as f:
        return f.read()


def opened(owner, data):
    """Decrypts with the identity of the backup that wrote the object."""
    if identity is None:
        return data
    if owner not in own_key:
        folder = f"backups/{target}/{owner}/keys"
        newest = sorted(os.listdir(os.path.join(root, folder)))[-1]
        file = tempfile.NamedTemporaryFile()
        file.write(run(["age", "-d", "-i", identity], read(f"{folder}/{newest}")))
        file.flush()
        own_key[owner] = file
    return run(["age", "-d", "-i", own_key[owner].name], data)


def page(owner, n):
    return json.loads(run(["zstd", "-d"], opened(owner, read(f"backups/{target}/{owner}/index/{n:08}.page"))))


header = json.loads(read(f"backups/{target}/{backup}/backup.json"))["body"]
packs = {}
for directory in page(backup, header["root"]["n"])["directories"]:
    listed = page(directory["ref"]["b"], directory["ref"]["n"])
    for member in listed["members"]:
        if member["spec"]["name"] != wanted:
            continue
        spans = [(listed["packs"], member["extents"])] if "extents" in member else []
        for span in member.get("pages", []):
            loaded = page(span["ref"]["b"], span["ref"]["n"])
            spans.append((loaded["packs"], loaded["extents"]))
        content = bytearray(member["size"])
        for names, extents in spans:
            for offset, length, pack, frame_offset, frame_length, inner, _ in extents:
                owner, n = names[pack]
                if (owner, n) not in packs:
                    packs[owner, n] = opened(owner, read(f"backups/{target}/{owner}/packs/{n:08}.pack"))
                frame = run(["zstd", "-d"], packs[owner, n][frame_offset:frame_offset + frame_length])
                content[offset:offset + length] = frame[inner:inner + length]
        sys.stdout.buffer.write(content)
        sys.exit(0)
sys.exit(f"no member {wanted}")
