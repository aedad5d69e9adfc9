-- The measures that are now more than three standard deviations from usual.
--! key = ["station", "measure"]
SELECT station, 'ph' AS measure, at, round(ph, 1) AS deviation FROM deviations WHERE ph > 3
UNION ALL
SELECT station, 'dissolved_oxygen', at, round(dissolved_oxygen, 1) FROM deviations WHERE dissolved_oxygen > 3
UNION ALL
SELECT station, 'bod', at, round(bod, 1) FROM deviations WHERE bod > 3
UNION ALL
SELECT station, 'turbidity', at, round(turbidity, 1) FROM deviations WHERE turbidity > 3
