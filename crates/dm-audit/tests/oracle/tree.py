"""An independent verifier of the tree, its signed checkpoints and proofs: Python's standard library only.

Written from RFC 6962 (trees), RFC 9162 (checking proofs), RFC 8032 (Ed25519), c2sp.org/signed-note, /tlog-checkpoint,
/tlog-tiles and /tlog-proof, and docs/audit.md (what a leaf hashes to).

    python3 tree.py store state.db VKEY              every tile and every checkpoint of a store
    python3 tree.py proof event.tlog-proof VKEY      one event, offline
    python3 tree.py consistency old.note new.json VKEY

Prints one JSON object and ends with 1 when something does not hold.
"""

import base64
import hashlib
import json
import sqlite3
import struct
import sys

# --- Ed25519, RFC 8032, section 5.1 ---

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
ROOT_OF_MINUS_ONE = pow(2, (P - 1) // 4, P)


def recover_x(y, sign):
    if y >= P:
        return None
    x2 = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    if x2 == 0:
        return None if sign else 0
    x = pow(x2, (P + 3) // 8, P)
    if (x * x - x2) % P:
        x = x * ROOT_OF_MINUS_ONE % P
    if (x * x - x2) % P:
        return None
    return P - x if (x & 1) != sign else x


def add(a, b):
    (x1, y1, z1, t1), (x2, y2, z2, t2) = a, b
    aa, bb = (y1 - x1) * (y2 - x2) % P, (y1 + x1) * (y2 + x2) % P
    c, d = 2 * t1 * t2 * D % P, 2 * z1 * z2 % P
    e, f, g, h = bb - aa, d - c, d + c, bb + aa
    return e * f % P, g * h % P, f * g % P, e * h % P


def times(n, point):
    result = (0, 1, 1, 0)
    while n:
        if n & 1:
            result = add(result, point)
        point = add(point, point)
        n >>= 1
    return result


def decompress(data):
    number = int.from_bytes(data, "little")
    y, sign = number & ((1 << 255) - 1), number >> 255
    x = recover_x(y, sign)
    return None if x is None else (x, y, 1, x * y % P)


BASE_Y = 4 * pow(5, P - 2, P) % P
BASE = (recover_x(BASE_Y, 0), BASE_Y, 1, recover_x(BASE_Y, 0) * BASE_Y % P)


def signature_holds(public, message, signature):
    a, r = decompress(public), decompress(signature[:32])
    s = int.from_bytes(signature[32:], "little")
    if len(signature) != 64 or a is None or r is None or s >= L:
        return False
    h = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % L
    (x1, y1, z1, _), (x2, y2, z2, _) = times(s, BASE), add(r, times(h, a))
    return (x1 * z2 - x2 * z1) % P == 0 and (y1 * z2 - y2 * z1) % P == 0


# --- notes and checkpoints ---


def parse_vkey(vkey):
    name, key_id, encoded = vkey.split("+", 2)
    typed = base64.b64decode(encoded, validate=True)
    assert len(typed) == 33 and typed[0] == 1, "an Ed25519 key"
    assert hashlib.sha256(name.encode() + b"\n" + typed).digest()[:4].hex() == key_id, "key id"
    return name, bytes.fromhex(key_id), typed[1:]


def open_note(note, vkey):
    name, key_id, public = parse_vkey(vkey)
    text, signatures = note.rsplit("\n\n", 1)
    text += "\n"
    assert signatures.endswith("\n")
    for line in signatures[:-1].split("\n"):
        dash, signer, encoded = line.split(" ")
        assert dash == "\u2014"
        raw = base64.b64decode(encoded, validate=True)
        if signer == name and raw[:4] == key_id:
            assert signature_holds(public, text.encode(), raw[4:]), "signature"
            return text
    raise AssertionError("not signed by " + name)


def open_checkpoint(note, vkey):
    origin, size, root = open_note(note, vkey).split("\n")[:3]
    assert origin == vkey.split("+")[0] and str(int(size)) == size, "origin and size"
    root = base64.b64decode(root, validate=True)
    assert len(root) == 32, "root"
    return int(size), root


# --- trees ---


def node(left, right):
    return hashlib.sha256(b"\x01" + left + right).digest()


def tree_root(hashes):
    if not hashes:
        return hashlib.sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    k = 1
    while k * 2 < len(hashes):
        k *= 2
    return node(tree_root(hashes[:k]), tree_root(hashes[k:]))


def included(index, size, leaf, path, root):
    if index >= size:
        return False
    fn, sn, r = index, size - 1, leaf
    for p in path:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            r = node(p, r)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = node(r, p)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and r == root


def consistent(old, new, old_root, new_root, path):
    if old == new:
        return not path and old_root == new_root
    if old == 0:
        return not path
    path = list(path)
    if old & (old - 1) == 0:
        path.insert(0, old_root)
    fn, sn = old - 1, new - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    if not path:
        return False
    fr = sr = path[0]
    for c in path[1:]:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            fr, sr = node(c, fr), node(c, sr)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = node(sr, c)
        fn, sn = fn >> 1, sn >> 1
    return fr == old_root and sr == new_root and sn == 0


# --- what a leaf hashes to: docs/audit.md, section 3 ---


def sized(data):
    return struct.pack(">Q", len(data)) + data


def event_hash(event):
    commitment = bytes.fromhex(event["commitment"])
    payload = event.get("payload")
    if payload:
        error = payload["error"]
        parts = [b"dm-audit-payload/1\n", sized(bytes.fromhex(payload["salt"])), sized(payload["details"].encode())]
        parts.append(b"\x00" if error is None else b"\x01" + sized(error.encode()))
        assert hashlib.sha256(b"".join(parts)).digest() == commitment, "payload"
    assert event["version"] == 1
    parts = [b"\x00dm-audit-leaf/1\n", sized(event["event_id"].encode()), struct.pack(">q", event["at"])]
    parts += [sized(event[k].encode()) for k in ("actor", "action", "resource", "outcome", "effect")]
    parts += [struct.pack(">q", event["duration_us"]), sized(event["run_id"].encode()), sized(commitment)]
    return hashlib.sha256(b"".join(parts)).digest()


# --- the three questions ---


def check_store(path, vkey):
    database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    leaves = [row[0] for row in database.execute(
        "SELECT l.leaf_hash FROM audit_seals s JOIN audit_leaves l ON l.id = s.leaf_id ORDER BY s.seq")]
    expected, level, hashes = {}, 0, leaves
    while hashes:
        for at in range(0, len(hashes), 256):
            expected[level, at // 256] = b"".join(hashes[at:at + 256])
        hashes = [tree_root(hashes[at:at + 256]) for at in range(0, len(hashes) // 256 * 256, 256)]
        level += 1
    found = {(l, i): h for l, i, h in database.execute("SELECT level, tile_index, hashes FROM audit_tiles")}
    assert found == expected, "tiles"
    notes = database.execute("SELECT size, root, note FROM audit_checkpoints ORDER BY size").fetchall()
    for size, root, note in notes:
        assert open_checkpoint(note, vkey) == (size, root), f"checkpoint {size}"
        assert tree_root(leaves[:size]) == root, f"root {size}"
    return {"size": len(leaves), "tiles": len(found), "checkpoints": len(notes), "root": tree_root(leaves).hex()}


def check_proof(path, vkey):
    text = open(path, encoding="utf-8").read()
    head, note = text.split("\n\n", 1)
    first, extra, index, *hashes = head.split("\n")
    assert first == "c2sp.org/tlog-proof@v1" and extra.startswith("extra ") and index.startswith("index ")
    event = json.loads(base64.b64decode(extra[6:], validate=True))
    size, root = open_checkpoint(note, vkey)
    path = [base64.b64decode(h, validate=True) for h in hashes]
    assert included(int(index[6:]), size, event_hash(event), path, root), "inclusion"
    return {"event_id": event["event_id"], "actor": event["actor"], "size": size}


def check_consistency(old_note, proof, vkey):
    old_size, old_root = open_checkpoint(open(old_note, encoding="utf-8").read(), vkey)
    proof = json.load(open(proof, encoding="utf-8"))
    new_size, new_root = open_checkpoint(proof["checkpoint"]["note"], vkey)
    path = [bytes.fromhex(h) for h in proof["path"]]
    assert consistent(old_size, new_size, old_root, new_root, path), "consistency"
    return {"old_size": old_size, "size": new_size}


def main():
    what = {"store": check_store, "proof": check_proof, "consistency": check_consistency}[sys.argv[1]]
    try:
        print(json.dumps({"ok": True, **what(*sys.argv[2:])}))
    except (AssertionError, ValueError, KeyError, TypeError) as why:
        print(json.dumps({"ok": False, "why": str(why)}))
        sys.exit(1)


if __name__ == "__main__":
    main()
