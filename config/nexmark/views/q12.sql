-- How often each person bids in 10 seconds, by when the bids arrived. Windows that are over are let go.
SELECT bidder, count(*) AS bids, date_bin(INTERVAL '10 seconds', p_time) AS window_start
FROM bid
WHERE date_bin(INTERVAL '10 seconds', p_time) > now() - INTERVAL '30 seconds'
GROUP BY bidder, date_bin(INTERVAL '10 seconds', p_time)
