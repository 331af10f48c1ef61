"""An independent verifier of the audit log, written from docs/audit.md: Python's standard library only.

    python3 verify.py state.db [seq:hash]

Prints one JSON object: ok, sealed, unsealed, bad, first_bad (seq, event_id, why), head. Ends with 1 when not ok.
"""

import hashlib
import json
import sqlite3
import struct
import sys

LEAF = """l.id, l.version, l.event_id, l.at, l.actor, l.action, l.resource, l.outcome, l.effect, l.duration_us,
          l.run_id, l.details, l.error, l.salt, l.commitment, l.leaf_hash, l.erased_by"""
EMPTY = bytes(32)


def sized(data):
    return struct.pack(">Q", len(data)) + data


def commitment(salt, details, error):
    parts = [b"dm-audit-payload/1\n", sized(salt), sized(details)]
    parts.append(b"\x00" if error is None else b"\x01" + sized(error))
    return hashlib.sha256(b"".join(parts)).digest()


def leaf_hash(event_id, at, texts, duration_us, run_id, committed):
    parts = [b"\x00dm-audit-leaf/1\n", sized(event_id), struct.pack(">q", at)]
    parts += [sized(text) for text in texts]
    parts += [struct.pack(">q", duration_us), sized(run_id), sized(committed)]
    return hashlib.sha256(b"".join(parts)).digest()


def chain_hash(prev, seq, event_id, sealed_at, epoch, leaf):
    return hashlib.sha256(
        b"dm-audit-chain/1\n" + sized(prev) + struct.pack(">q", seq) + sized(event_id)
        + struct.pack(">qq", sealed_at, epoch) + sized(leaf)
    ).digest()


def leaf_defect(row):
    """What is wrong with a leaf, or None. Text columns come as bytes."""
    (_, version, event_id, at, actor, action, resource, outcome, effect, duration_us,
     run_id, details, error, salt, committed, stored, erased_by) = row
    if version != 1:
        return "unknown version"
    if erased_by is not None:
        if (details, error, salt) != (None, None, None):
            return "partly erased"
    elif salt is None or details is None:
        return "payload is gone"
    elif commitment(salt, details, error) != committed:
        return "commitment does not hold"
    if leaf_hash(event_id, at, [actor, action, resource, outcome, effect], duration_us, run_id, committed) != stored:
        return "leaf hash does not hold"
    return None


def verify(database, noted):
    bad = []
    seq_before, hash_before, sealed = 0, EMPTY, 0
    rows = database.execute(
        f"SELECT s.seq, s.event_id, s.prev_hash, s.chain_hash, s.sealed_at, s.epoch, {LEAF}"
        " FROM audit_seals s LEFT JOIN audit_leaves l ON l.id = s.leaf_id ORDER BY s.seq")
    for seq, event_id, prev, chain, sealed_at, epoch, *leaf in rows:
        sealed += 1
        if seq != seq_before + 1:
            bad.append((min(seq, seq_before + 1), None, "gap"))
            hash_before = None
        why = None
        if leaf[0] is None:
            why = "leaf is gone"
        elif leaf[16] is not None and not database.execute(
                "SELECT 1 FROM audit_leaves WHERE run_id = ? AND action IN ('audit:erase', 'audit:expire')", (leaf[16].decode(),)).fetchone():
            why = "erased by nobody"
        elif leaf[2] != event_id:
            why = "leaf of another event"
        else:
            why = leaf_defect(leaf)
        if why is None and hash_before is not None and prev != hash_before:
            why = "does not follow"
        if why is None and chain_hash(prev, seq, event_id, sealed_at, epoch, leaf[15]) != chain:
            why = "chain hash does not hold"
        if why is None and noted and noted[0] == seq and noted[1] != chain:
            why = "not the head noted"
        if why:
            bad.append((seq, event_id, why))
        seq_before, hash_before = seq, chain
    if noted and noted[0] > seq_before:
        bad.append((seq_before + 1, None, "the log ends before the head noted"))
    unsealed = 0
    rows = database.execute(
        f"SELECT p.leaf_id, {LEAF} FROM audit_leaves l LEFT JOIN audit_pending p ON p.leaf_id = l.id"
        " WHERE l.id NOT IN (SELECT leaf_id FROM audit_seals) ORDER BY l.id")
    for waits, *leaf in rows:
        unsealed += 1
        why = leaf_defect(leaf) or (None if waits is not None else "neither sealed nor waiting")
        if why:
            bad.append((None, leaf[2], why))
    for _ in database.execute("SELECT 1 FROM audit_pending WHERE leaf_id NOT IN (SELECT id FROM audit_leaves)"):
        bad.append((None, None, "a waiting leaf is gone"))
    first = None
    if bad:
        seq, event_id, why = bad[0]
        first = {"seq": seq, "event_id": event_id and event_id.decode(), "why": why}
    return {"ok": not bad, "sealed": sealed, "unsealed": unsealed, "bad": len(bad), "first_bad": first,
            "head": {"seq": seq_before, "hash": (hash_before or EMPTY).hex()}}


def main():
    database = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
    database.text_factory = bytes
    noted = None
    if len(sys.argv) > 2:
        seq, digits = sys.argv[2].split(":")
        noted = (int(seq), bytes.fromhex(digits))
    result = verify(database, noted)
    print(json.dumps(result))
    sys.exit(0 if result["ok"] else 1)


if __name__ == "__main__":
    main()
