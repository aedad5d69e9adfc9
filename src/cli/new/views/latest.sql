-- The newest reading of each station.
-- With a key, subscribers are sent whole rows to insert, replace or delete by it.
--! key = ["station"]
SELECT
  station,
  max(at) AS at,
  last_value(level_m ORDER BY at) AS level_m,
  count(*) AS readings
FROM readings
GROUP BY station
