-- A small shop: the same rows on every machine. Statements are separated by empty lines.
-- Numbers that look random come from multiplying the row's number (Knuth's multiplicative hash).

CREATE TABLE users (
    id         INTEGER PRIMARY KEY,
    name       TEXT    NOT NULL,
    email      TEXT    NOT NULL UNIQUE,
    city       TEXT    NOT NULL,
    joined_at  TEXT    NOT NULL
)

CREATE TABLE orders (
    id          INTEGER PRIMARY KEY,
    user_id     INTEGER NOT NULL REFERENCES users (id),
    item        TEXT    NOT NULL,
    quantity    INTEGER NOT NULL CHECK (quantity > 0),
    price_cents INTEGER NOT NULL,
    status      TEXT    NOT NULL,
    ordered_at  TEXT    NOT NULL
)

CREATE TABLE sessions (
    id         INTEGER PRIMARY KEY,
    user_id    INTEGER NOT NULL REFERENCES users (id),
    token      TEXT    NOT NULL,
    device     TEXT    NOT NULL,
    seconds    INTEGER NOT NULL,
    started_at TEXT    NOT NULL
)

CREATE INDEX orders_by_time ON orders (ordered_at)

WITH RECURSIVE
first (n, word) AS (VALUES
    (0, 'Ada'), (1, 'Alan'), (2, 'Barbara'), (3, 'Claude'), (4, 'Dorothy'), (5, 'Edsger'), (6, 'Frances'),
    (7, 'Grace'), (8, 'Hedy'), (9, 'Ivan'), (10, 'Jean'), (11, 'Katherine'), (12, 'Linus'), (13, 'Margaret'),
    (14, 'Niklaus'), (15, 'Radia')),
last (n, word) AS (VALUES
    (0, 'Allen'), (1, 'Booth'), (2, 'Castro'), (3, 'Dijkman'), (4, 'Eriksen'), (5, 'Fischer'), (6, 'Garcia'),
    (7, 'Hansen'), (8, 'Ito'), (9, 'Jensen'), (10, 'Kowalski'), (11, 'Lopez'), (12, 'Moreau'), (13, 'Novak'),
    (14, 'Okafor'), (15, 'Petrov'), (16, 'Rossi'), (17, 'Silva'), (18, 'Tanaka'), (19, 'Weber')),
city (n, word) AS (VALUES
    (0, 'Aarhus'), (1, 'Bologna'), (2, 'Cork'), (3, 'Dresden'), (4, 'Espoo'), (5, 'Fukuoka'), (6, 'Ghent'),
    (7, 'Hobart'), (8, 'Izmir'), (9, 'Jaipur'), (10, 'Krakow'), (11, 'Lagos')),
row (n, r) AS (
    SELECT 1, (1 * 2654435761 % 4294967296) / 4096
    UNION ALL
    SELECT n + 1, ((n + 1) * 2654435761 % 4294967296) / 4096 FROM row WHERE n < 20000)
INSERT INTO users (id, name, email, city, joined_at)
SELECT n,
       first || ' ' || last,
       lower(first) || '.' || lower(last) || n || '@example.com',
       city,
       datetime(1672531200 + n * 3100 + r % 3000, 'unixepoch')
FROM (
    SELECT row.n,
           row.r,
           (SELECT word FROM first WHERE first.n = row.r % 16) AS first,
           (SELECT word FROM last WHERE last.n = row.r / 16 % 20) AS last,
           (SELECT word FROM city WHERE city.n = row.r / 320 % 12) AS city
    FROM row)
ORDER BY n

WITH RECURSIVE
item (n, word, cents) AS (VALUES
    (0, 'notebook', 450), (1, 'fountain pen', 3900), (2, 'desk lamp', 5400), (3, 'coffee, 1 kg', 1890),
    (4, 'tea pot', 2750), (5, 'headphones', 8900), (6, 'rucksack', 6500), (7, 'bicycle bell', 1250),
    (8, 'rain coat', 7900), (9, 'water bottle', 1450), (10, 'keyboard', 9900), (11, 'house plant', 1690)),
row (n, r) AS (
    SELECT 1, (1 * 2654435761 % 4294967296) / 4096
    UNION ALL
    SELECT n + 1, ((n + 1) * 2654435761 % 4294967296) / 4096 FROM row WHERE n < 80000)
INSERT INTO orders (id, user_id, item, quantity, price_cents, status, ordered_at)
SELECT row.n,
       1 + row.r % 20000,
       item.word,
       1 + row.r / 7 % 4,
       item.cents * (1 + row.r / 7 % 4),
       CASE WHEN row.n > 79200 THEN 'paid' WHEN row.r % 40 = 0 THEN 'returned' ELSE 'delivered' END,
       datetime(1735689600 + row.n * 380 + row.r % 300, 'unixepoch')
FROM row
JOIN item ON item.n = row.r / 64 % 12
ORDER BY row.n

WITH RECURSIVE
device (n, word) AS (VALUES (0, 'phone'), (1, 'phone'), (2, 'laptop'), (3, 'tablet')),
row (n, r) AS (
    SELECT 1, (1 * 2246822519 % 4294967296) / 4096
    UNION ALL
    SELECT n + 1, ((n + 1) * 2246822519 % 4294967296) / 4096 FROM row WHERE n < 120000)
INSERT INTO sessions (id, user_id, token, device, seconds, started_at)
SELECT row.n,
       1 + row.r % 20000,
       printf('%08x%08x', row.n * 2654435761 % 4294967296, row.n * 3266489917 % 4294967296),
       device.word,
       20 + row.r % 3600,
       datetime(1735689600 + row.n * 250, 'unixepoch')
FROM row
JOIN device ON device.n = row.r / 32 % 4
ORDER BY row.n
