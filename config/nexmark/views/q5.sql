-- Hot items: which auctions have most bids in 10 seconds, every 2 seconds. Windows that are over are let go.
WITH counts AS (
    SELECT auction, window_start, window_end, count(*) AS num
    FROM hop(bid, date_time, INTERVAL '2 seconds', INTERVAL '10 seconds')
    WHERE window_end > now() - INTERVAL '10 seconds'
    GROUP BY auction, window_start, window_end
)
SELECT c.auction, c.num, c.window_start, c.window_end
FROM counts c
JOIN (
    SELECT window_start, window_end, max(num) AS num
    FROM counts
    GROUP BY window_start, window_end
) AS most ON c.window_start = most.window_start AND c.window_end = most.window_end AND c.num >= most.num
