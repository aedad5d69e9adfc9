-- Each river in one line.
--! key = ["river"]
SELECT
  river,
  count(*) AS stations,
  round(avg(wqi), 1) AS wqi,
  min(wqi) AS worst_wqi,
  max(score) AS highest_risk,
  count(*) FILTER (WHERE level = 'critical') AS critical
FROM risk
GROUP BY river
