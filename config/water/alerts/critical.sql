-- Act now: a station's risk is 70 or more. Cleared as soon as it is less.
--! key = ["station"]
--! priority = "critical"
SELECT station, name, river, score, wqi, class, anomalies, rain_mm
FROM risk
WHERE level = 'critical'
