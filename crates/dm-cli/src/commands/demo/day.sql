-- One more day of business: about one row in a hundred changes. Statements are separated by empty lines.

WITH RECURSIVE row (n, r) AS (
    SELECT 80001, (80001 * 2654435761 % 4294967296) / 4096
    UNION ALL
    SELECT n + 1, ((n + 1) * 2654435761 % 4294967296) / 4096 FROM row WHERE n < 80300)
INSERT INTO orders (id, user_id, item, quantity, price_cents, status, ordered_at)
SELECT row.n, 1 + row.r % 20000, 'notebook', 1, 450, 'paid', datetime(1735689600 + row.n * 380, 'unixepoch')
FROM row
ORDER BY row.n

UPDATE orders SET status = 'delivered' WHERE id > 79200 AND id <= 80000

WITH RECURSIVE row (n, r) AS (
    SELECT 120001, (120001 * 2246822519 % 4294967296) / 4096
    UNION ALL
    SELECT n + 1, ((n + 1) * 2246822519 % 4294967296) / 4096 FROM row WHERE n < 120700)
INSERT INTO sessions (id, user_id, token, device, seconds, started_at)
SELECT row.n,
       1 + row.r % 20000,
       printf('%08x%08x', row.n * 2654435761 % 4294967296, row.n * 3266489917 % 4294967296),
       'phone',
       20 + row.r % 3600,
       datetime(1735689600 + row.n * 250, 'unixepoch')
FROM row
ORDER BY row.n

DELETE FROM sessions WHERE id <= 400
