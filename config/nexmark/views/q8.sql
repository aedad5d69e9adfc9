-- New users: people who open an auction within the 10 seconds in which they came. Windows that are over are let go.
SELECT p.id, p.name, p.window_start
FROM (
    SELECT id, name, date_bin(INTERVAL '10 seconds', date_time) AS window_start
    FROM person
    WHERE date_bin(INTERVAL '10 seconds', date_time) > now() - INTERVAL '30 seconds'
    GROUP BY id, name, date_bin(INTERVAL '10 seconds', date_time)
) AS p
JOIN (
    SELECT seller, date_bin(INTERVAL '10 seconds', date_time) AS window_start
    FROM auction
    WHERE date_bin(INTERVAL '10 seconds', date_time) > now() - INTERVAL '30 seconds'
    GROUP BY seller, date_bin(INTERVAL '10 seconds', date_time)
) AS a ON p.id = a.seller AND p.window_start = a.window_start
