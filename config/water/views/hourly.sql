-- Every hour of the last three days, station by station. Hours are India's:
-- date_trunc goes by the deployment's time zone, date_bin would count in UTC.
--! key = ["station", "hour"]
SELECT
  station,
  date_trunc('hour', at) AS hour,
  count(*) AS readings,
  avg(ph) AS ph,
  avg(dissolved_oxygen) AS dissolved_oxygen,
  min(dissolved_oxygen) AS lowest_dissolved_oxygen,
  avg(bod) AS bod,
  avg(turbidity) AS turbidity,
  max(turbidity) AS highest_turbidity,
  avg(temperature) AS temperature
FROM readings
GROUP BY station, date_trunc('hour', at)
