-- The newest reading of each station that has reported within the hour.
-- A station that falls silent leaves this view after an hour; see `quality`.
--! key = ["station"]
SELECT
  station,
  max(at) AS at,
  last_value(ph ORDER BY at) AS ph,
  last_value(dissolved_oxygen ORDER BY at) AS dissolved_oxygen,
  last_value(bod ORDER BY at) AS bod,
  last_value(faecal_coliform ORDER BY at) AS faecal_coliform,
  last_value(turbidity ORDER BY at) AS turbidity,
  last_value(temperature ORDER BY at) AS temperature
FROM readings
WHERE at > now() - INTERVAL '1 hour'
GROUP BY station
