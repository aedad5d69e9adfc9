-- A row here is an alert that stands; when the row goes, the alert is cleared.
--! key = ["station"]
--! priority = "high"
SELECT station, at, level_m
FROM latest
WHERE level_m > 5
