-- Every day of the last three, station by station; a day begins at midnight in
-- India. The first day shrinks while its readings expire.
--! key = ["station", "day"]
SELECT
  station,
  date_trunc('day', at) AS day,
  count(*) AS readings,
  round(avg(wqi_cpcb(dissolved_oxygen, faecal_coliform, ph, bod)), 1) AS wqi,
  round(avg(ph), 2) AS ph,
  round(avg(dissolved_oxygen), 2) AS dissolved_oxygen,
  round(avg(bod), 2) AS bod,
  count(*) FILTER (WHERE dissolved_oxygen < 4) AS readings_without_oxygen
FROM readings
GROUP BY station, date_trunc('day', at)
