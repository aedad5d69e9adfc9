-- What is usual for a station: mean and spread of its own last day.
--! key = ["station"]
SELECT
  station,
  count(*) AS readings,
  avg(ph) AS ph,
  stddev(ph) AS ph_spread,
  avg(dissolved_oxygen) AS dissolved_oxygen,
  stddev(dissolved_oxygen) AS dissolved_oxygen_spread,
  avg(bod) AS bod,
  stddev(bod) AS bod_spread,
  avg(turbidity) AS turbidity,
  stddev(turbidity) AS turbidity_spread
FROM readings
WHERE at > now() - INTERVAL '1 day'
GROUP BY station
