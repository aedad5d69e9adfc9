-- Send someone: a station says nothing, or nothing that can be trusted.
--! key = ["station"]
--! priority = "medium"
SELECT station, name, score, readings, missing, impossible, stuck
FROM quality
WHERE quality = 'bad'
