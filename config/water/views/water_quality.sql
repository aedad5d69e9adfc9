-- How good is the water now? The index of India's Central Pollution Control
-- Board (0 worst, 100 best), its class in words, and whether the water is fit
-- for outdoor bathing (CPCB's "designated best use" B).
-- The index is NULL while one of its four measures is missing.
--! key = ["station"]
SELECT
  latest.station,
  stations.name,
  stations.river,
  latest.at,
  round(latest.wqi, 1) AS wqi,
  wqi_class(latest.wqi) AS class,
  latest.ph BETWEEN 6.5 AND 8.5
    AND latest.dissolved_oxygen >= 5
    AND latest.bod <= 3
    AND latest.faecal_coliform <= 500 AS fit_for_bathing
FROM (
  SELECT *, wqi_cpcb(dissolved_oxygen, faecal_coliform, ph, bod) AS wqi FROM latest
) AS latest
JOIN stations ON stations.station = latest.station
