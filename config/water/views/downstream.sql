-- Who should be warned: the next station downstream of every station whose risk
-- is high or critical, and in how many hours the water will be there.
--! key = ["station", "upstream"]
SELECT
  links.downstream AS station,
  stations.name,
  stations.river,
  risk.station AS upstream,
  risk.name AS upstream_name,
  risk.level AS upstream_level,
  risk.score AS upstream_score,
  links.km,
  links.hours
FROM risk
JOIN links ON links.upstream = risk.station
JOIN stations ON stations.station = links.downstream
WHERE risk.score >= 50
