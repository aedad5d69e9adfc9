-- Highest bid of each 10 seconds. Windows that are over are let go after a while.
WITH recent AS (
    SELECT auction, bidder, price, date_time, extra, date_bin(INTERVAL '10 seconds', date_time) AS window_start
    FROM bid
    WHERE date_bin(INTERVAL '10 seconds', date_time) > now() - INTERVAL '30 seconds'
)
SELECT r.auction, r.price, r.bidder, r.date_time, r.extra
FROM recent r
JOIN (
    SELECT window_start, max(price) AS price
    FROM recent
    GROUP BY window_start
) AS highest ON r.window_start = highest.window_start AND r.price = highest.price
