-- Can the numbers of a station be trusted? Looks at the last hour of every
-- station there is, also of those that say nothing.
--   missing     share of readings in which a measure is NULL
--   impossible  share of readings outside what water can be
--   stuck       one and the same pH again and again: a dead probe
-- score 90 and more is good, 60 and more suspect, less is bad.
--! key = ["station"]
WITH recent AS (
  SELECT
    station,
    count(*) AS readings,
    count(*) FILTER (
      WHERE ph IS NULL OR dissolved_oxygen IS NULL OR bod IS NULL
        OR faecal_coliform IS NULL OR turbidity IS NULL OR temperature IS NULL
    ) AS missing,
    count(*) FILTER (
      WHERE ph NOT BETWEEN 3 AND 11 OR dissolved_oxygen NOT BETWEEN 0 AND 18
        OR bod NOT BETWEEN 0 AND 200 OR faecal_coliform < 0
        OR turbidity NOT BETWEEN 0 AND 3000 OR temperature NOT BETWEEN 0 AND 45
    ) AS impossible,
    min(ph) AS lowest_ph,
    max(ph) AS highest_ph
  FROM readings
  WHERE at > now() - INTERVAL '1 hour'
  GROUP BY station
),
judged AS (
  SELECT
    stations.station,
    stations.name,
    coalesce(recent.readings, 0) AS readings,
    coalesce(recent.missing, 0) AS missing,
    coalesce(recent.impossible, 0) AS impossible,
    coalesce(recent.readings >= 10 AND recent.lowest_ph = recent.highest_ph, false) AS stuck
  FROM stations
  LEFT JOIN recent ON recent.station = stations.station
),
scored AS (
  SELECT
    *,
    CASE
      WHEN readings = 0 THEN 0.0
      ELSE greatest(
        0.0,
        100.0 - 100.0 * missing / readings - 200.0 * impossible / readings - CASE WHEN stuck THEN 30.0 ELSE 0.0 END
      )
    END AS exact_score
  FROM judged
)
SELECT
  station, name, readings, missing, impossible, stuck,
  round(exact_score, 1) AS score,
  CASE WHEN exact_score >= 90 THEN 'good' WHEN exact_score >= 60 THEN 'suspect' ELSE 'bad' END AS quality
FROM scored
