-- A shop of three tenants, with everything that a closure along foreign keys meets.
CREATE SCHEMA app; CREATE SCHEMA "Odd Schema";
CREATE TYPE app.state AS ENUM ('new', 'paid');
CREATE TABLE app.countries (code char(2) PRIMARY KEY, part_of char(2) REFERENCES app.countries, name text);
CREATE TABLE app.products (id int PRIMARY KEY, name text, successor int REFERENCES app.products);
CREATE TABLE app.tenants (id int PRIMARY KEY, name text, plan text);
CREATE TABLE app.users (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tenant_id int NOT NULL REFERENCES app.tenants,
    email text UNIQUE, boss int REFERENCES app.users, country char(2) REFERENCES app.countries,
    shout text GENERATED ALWAYS AS (upper(email)) STORED);
CREATE INDEX ON app.users (tenant_id);
CREATE TABLE app.orders (tenant_id int NOT NULL, no int, user_id int REFERENCES app.users ON DELETE CASCADE, state app.state DEFAULT 'new',
    total numeric, PRIMARY KEY (tenant_id, no));
-- No column of the name: children by a composite key, in a schema and with names that want quotes.
CREATE TABLE "Odd Schema"."Order ""Items""" ("Tenant" int, "No" int, line int, product int REFERENCES app.products,
    replaces int, note text, PRIMARY KEY ("Tenant", "No", line),
    FOREIGN KEY ("Tenant", "No") REFERENCES app.orders (tenant_id, no) ON DELETE CASCADE,
    FOREIGN KEY ("Tenant", "No", replaces) REFERENCES "Odd Schema"."Order ""Items""");
CREATE TABLE app.returns (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), t int, n int, l int, why json,
    FOREIGN KEY (t, n, l) REFERENCES "Odd Schema"."Order ""Items""" ON DELETE CASCADE);
-- Partitioned, a child without the column and without a key.
CREATE TABLE app.events (at date NOT NULL, user_id int REFERENCES app.users ON DELETE CASCADE, what text) PARTITION BY RANGE (at);
CREATE TABLE app.events_a PARTITION OF app.events FOR VALUES FROM (MINVALUE) TO ('2020-01-01');
CREATE TABLE app.events_b PARTITION OF app.events FOR VALUES FROM ('2020-01-01') TO (MAXVALUE);
-- Partitioned and referred to.
CREATE TABLE app.days (day date, tenant_id int, weather text, PRIMARY KEY (day, tenant_id)) PARTITION BY RANGE (day);
CREATE TABLE app.days_a PARTITION OF app.days FOR VALUES FROM (MINVALUE) TO ('2020-01-01');
CREATE TABLE app.days_b PARTITION OF app.days FOR VALUES FROM ('2020-01-01') TO (MAXVALUE);
CREATE TABLE app.visits (id int PRIMARY KEY, day date, tid int, FOREIGN KEY (day, tid) REFERENCES app.days (day, tenant_id));
-- A cycle.
CREATE TABLE app.teams (id int PRIMARY KEY, tenant_id int, lead int);
CREATE TABLE app.members (id int PRIMARY KEY, team int NOT NULL REFERENCES app.teams, user_id int REFERENCES app.users);
ALTER TABLE app.teams ADD FOREIGN KEY (lead) REFERENCES app.members;
-- Who lent what to whom: the lender's, also where the borrower is another's.
CREATE TABLE app.loans (id int PRIMARY KEY, tenant_id int, from_user int REFERENCES app.users, to_user int REFERENCES app.users);
-- Nothing ties it to anybody.
CREATE TABLE app.holidays (day date PRIMARY KEY, name text);
CREATE VIEW app.paid AS SELECT * FROM app.orders WHERE state = 'paid';

INSERT INTO app.countries VALUES ('EU', NULL, 'Union'), ('DE', 'EU', 'Germany'), ('FR', 'EU', 'France'), ('US', NULL, 'States');
INSERT INTO app.products SELECT g, 'p' || g, NULLIF(g - 1, 0) FROM generate_series(1, 60) g;
INSERT INTO app.tenants SELECT g, 't' || g, 'basic' FROM generate_series(1, 3) g;
INSERT INTO app.users (tenant_id, email, boss, country)
    SELECT 1 + g % 3, 'u' || g || '@example.org', CASE WHEN g > 3 THEN g - 3 END, (ARRAY['DE', 'FR', 'US'])[1 + g % 3]
      FROM generate_series(1, 300) g;
INSERT INTO app.orders SELECT tenant_id, row_number() OVER (PARTITION BY tenant_id ORDER BY id), id, 'paid', id * 1.50 FROM app.users;
INSERT INTO "Odd Schema"."Order ""Items""" SELECT tenant_id, no, l, 1 + (tenant_id * 7 + no + l) % 20, NULLIF(l - 1, 0), 'it''s'
      FROM app.orders, generate_series(1, 3) l;
INSERT INTO app.returns (t, n, l, why) SELECT "Tenant", "No", line, '{"a" :  1}' FROM "Odd Schema"."Order ""Items""" WHERE "No" % 5 = 0;
INSERT INTO app.events SELECT date '2019-11-01' + g % 120, 1 + g % 300, E'tab\there\\' FROM generate_series(1, 900) g;
INSERT INTO app.days SELECT date '2019-12-20' + g, t, 'sun' FROM generate_series(1, 30) g, generate_series(1, 3) t;
INSERT INTO app.visits SELECT g, date '2019-12-20' + 1 + g % 30, CASE WHEN g % 10 > 0 THEN 1 + g % 3 END FROM generate_series(1, 200) g;
INSERT INTO app.teams SELECT g, 1 + g % 3, NULL FROM generate_series(1, 9) g;
INSERT INTO app.members SELECT g, 1 + g % 9, 1 + g % 9 + 3 * g FROM generate_series(1, 90) g;
UPDATE app.teams SET lead = id + 8;
INSERT INTO app.loans VALUES (1, 1, 3, 6), (2, 2, 1, 2), (3, NULL, 4, 5), (4, NULL, NULL, NULL);
INSERT INTO app.holidays VALUES ('2020-01-01', 'new year');
