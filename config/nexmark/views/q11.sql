-- User sessions: how often each person bids before pausing for 10 seconds. Sessions that are over are let go;
-- the bids they are found among stay as long as the source retains them.
SELECT bidder, count(*) AS bids, window_start, window_end
FROM session(bid, date_time, INTERVAL '10 seconds', bidder)
WHERE window_end > now() - INTERVAL '30 seconds'
GROUP BY bidder, window_start, window_end
