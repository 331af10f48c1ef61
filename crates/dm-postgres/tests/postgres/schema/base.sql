CREATE SCHEMA app;
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE SEQUENCE tickets START 5;
CREATE FUNCTION plus_one(n int) RETURNS int LANGUAGE sql IMMUTABLE AS $$ SELECT n + 1 $$;
CREATE PROCEDURE nothing() LANGUAGE sql AS $$ SELECT 1 $$;
CREATE TABLE items (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL DEFAULT 'none',
    price int DEFAULT 5,
    twice int GENERATED ALWAYS AS (price * 2) STORED,
    feeling mood,
    amount positive,
    both_of pair
);
CREATE TABLE lines (
    id serial PRIMARY KEY,
    item_id bigint NOT NULL REFERENCES items ON DELETE CASCADE,
    quantity int CHECK (quantity > 0),
    UNIQUE (item_id, quantity)
);
ALTER TABLE items DROP COLUMN twice;
CREATE INDEX items_name_idx ON items (name);
CREATE INDEX lines_partly_idx ON lines (quantity) WHERE quantity > 3;
CREATE TABLE days (day date NOT NULL, n int) PARTITION BY RANGE (day);
CREATE TABLE days_2020 PARTITION OF days FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
CREATE TABLE days_2021 PARTITION OF days FOR VALUES FROM ('2021-01-01') TO ('2022-01-01');
CREATE VIEW cheap AS SELECT id, name FROM items WHERE name <> '';
CREATE MATERIALIZED VIEW totals AS SELECT item_id, count(*) AS n FROM lines GROUP BY item_id;
CREATE FUNCTION touched() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
CREATE TRIGGER touch BEFORE UPDATE ON items FOR EACH ROW EXECUTE FUNCTION touched();
CREATE TRIGGER touch_lines BEFORE UPDATE ON lines FOR EACH ROW EXECUTE FUNCTION touched();
CREATE RULE quiet AS ON DELETE TO lines DO INSTEAD NOTHING;
ALTER TABLE lines ENABLE ROW LEVEL SECURITY;
CREATE POLICY few ON lines USING (quantity < 5);
CREATE STATISTICS together ON item_id, quantity FROM lines;
COMMENT ON TABLE items IS 'What there is';
COMMENT ON COLUMN items.name IS 'How it is called';
COMMENT ON FUNCTION plus_one(int) IS 'One more';
GRANT SELECT ON items TO PUBLIC;
CREATE TABLE app.settings (key text PRIMARY KEY, value jsonb);
CREATE AGGREGATE total(int) (sfunc = int4pl, stype = int, initcond = '0')
