-- Rain of the last three hours at each station, in millimetres: it washes
-- streets and fields into the river. Weather comes every ten minutes.
--! key = ["station"]
SELECT
  station,
  max(at) AS at,
  round(sum(rain_mm_h) / 6, 1) AS rain_mm
FROM weather
WHERE at > now() - INTERVAL '3 hours'
GROUP BY station
