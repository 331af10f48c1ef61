"""Tables of believable rows."""

# A row of believable text: some 115 bytes, some of it repeated, some not.
ROWS = """
    SELECT i AS id, (hashint8(i) & 1048575) AS user_id, timestamptz '2024-01-01' + i * interval '7 seconds' AS created_at,
           (ARRAY['new', 'paid', 'shipped', 'returned'])[1 + (i % 4)] AS status, round((i % 100000) / 7.0, 2) AS amount,
           md5(i::text) AS token, 'order ' || i || ' for customer ' || (i % 9973) || ' by post' AS note
    FROM generate_series({first}, {last}) i
"""
ROW_BYTES = 155  # in the heap


def make_table(server, database, table, size, options=""):
    """`size` bytes of heap; `options` go into WITH."""
    rows = int(size / ROW_BYTES)
    step = 2_000_000
    server.psql(database, f"CREATE TABLE {table} {options} AS {ROWS.format(first=1, last=min(rows, step))}")
    for first in range(step + 1, rows + 1, step):
        server.psql(database, f"INSERT INTO {table} {ROWS.format(first=first, last=min(rows, first + step - 1))}")
    server.psql(database, f"ALTER TABLE {table} ADD PRIMARY KEY (id); CREATE INDEX ON {table} (user_id)")
