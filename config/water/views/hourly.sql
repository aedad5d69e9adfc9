-- Every hour of the last three days, station by station. Hours are India's:
-- date_trunc goes by the deployment's time zone, date_bin would count in UTC.
--! key = ["station", "hour"]
SELECT
  station,
  date_trunc('hour', at) AS hour,
  count(*) AS readings,
  round(avg(ph), 2) AS ph,
  round(avg(dissolved_oxygen), 2) AS dissolved_oxygen,
  min(dissolved_oxygen) AS lowest_dissolved_oxygen,
  round(avg(bod), 2) AS bod,
  round(avg(turbidity), 2) AS turbidity,
  max(turbidity) AS highest_turbidity,
  round(avg(temperature), 2) AS temperature
FROM readings
GROUP BY station, date_trunc('hour', at)
