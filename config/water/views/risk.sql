-- One number to look at, from 0 (calm) to 100: mostly the water itself, then
-- whether it is unusual for the place, then rain still to be washed down.
--   up to 80  the water-quality index, turned round
--   up to 10  anomalies: 5 for each measure that is far from usual, two at most
--   up to 10  rain: 40 mm in three hours are the full ten
-- 70 and more is critical, 50 high, 30 moderate.
--! key = ["station"]
WITH unusual AS (
  SELECT station, count(*) AS measures FROM anomalies GROUP BY station
),
parts AS (
  SELECT
    water_quality.station,
    water_quality.name,
    water_quality.river,
    water_quality.at,
    water_quality.wqi,
    water_quality.class,
    coalesce(unusual.measures, 0) AS anomalies,
    coalesce(rain.rain_mm, 0.0) AS rain_mm
  FROM water_quality
  LEFT JOIN unusual ON unusual.station = water_quality.station
  LEFT JOIN rain ON rain.station = water_quality.station
),
scored AS (
  SELECT
    *,
    round(
      0.8 * (100.0 - wqi) + 5.0 * least(anomalies, 2) + 10.0 * least(rain_mm / 40.0, 1.0),
      1
    ) AS score
  FROM parts
)
SELECT
  station, name, river, at, wqi, class, anomalies, rain_mm, score,
  CASE
    WHEN score >= 70 THEN 'critical'
    WHEN score >= 50 THEN 'high'
    WHEN score >= 30 THEN 'moderate'
    ELSE 'low'
  END AS level
FROM scored
WHERE score IS NOT NULL
