#!/usr/bin/env bash
# The least that a parallel logical backup can do: COPY piped into zstd, several at once under one snapshot.
#
#   copy_pipes.sh DATABASE FOLDER JOBS LEVEL
#
# Tables larger than 64 MiB are cut by ctid, so that all jobs work on a giant one too. No schema, no digests, no proof.
# The connection comes from the PG* variables.
set -euo pipefail
database=$1 folder=$2 jobs=$3 level=$4
export database folder level snapshot

mkdir -p "$folder"
coproc HOLDER { psql -XqAt -d "$database"; }
echo "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT pg_export_snapshot();" >&"${HOLDER[1]}"
read -r snapshot <&"${HOLDER[0]}"

# One line a piece: file name, query. Largest first.
pieces="
    WITH big AS (
        SELECT c.oid::regclass AS name, c.oid::int AS id, c.relpages AS pages,
               greatest(1, ceil(c.relpages / 8192.0))::int AS parts
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind = 'r' AND n.nspname = 'public')
    SELECT id || '-' || part || E'\t' || CASE
        WHEN parts = 1 THEN format('COPY %s TO STDOUT', name)
        WHEN part = parts - 1 THEN format('COPY (SELECT * FROM %s WHERE ctid >= ''(%s,0)'') TO STDOUT', name, part * 8192)
        ELSE format('COPY (SELECT * FROM %s WHERE ctid >= ''(%s,0)'' AND ctid < ''(%s,0)'') TO STDOUT',
                    name, part * 8192, (part + 1) * 8192) END
    FROM big, generate_series(0, parts - 1) part ORDER BY pages DESC, part"

copy_piece() {
    local file=${1%%$'\t'*} query=${1#*$'\t'}
    psql -Xq -d "$database" -c "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY" \
        -c "SET TRANSACTION SNAPSHOT '$snapshot'" -c "$query" -c COMMIT | zstd -q -T1 "-$level" -o "$folder/$file.zst"
}
export -f copy_piece

# shellcheck disable=SC2016 # the inner shell expands its own argument
psql -XqAt -d "$database" -c "$pieces" | xargs -d '\n' -n 1 -P "$jobs" bash -o pipefail -c 'copy_piece "$1"' copy
printf 'COMMIT;\n\\q\n' >&"${HOLDER[1]}"
wait "$HOLDER_PID"
