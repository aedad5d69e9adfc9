-- How far the newest reading of a station is from what is usual there, in
-- standard deviations: 0 is as always, beyond 3 hardly ever happens by chance.
-- Stations with fewer than 20 readings are too new to tell.
--! key = ["station"]
SELECT
  latest.station,
  latest.at,
  abs(latest.ph - usual.ph) / nullif(usual.ph_spread, 0) AS ph,
  abs(latest.dissolved_oxygen - usual.dissolved_oxygen) / nullif(usual.dissolved_oxygen_spread, 0) AS dissolved_oxygen,
  abs(latest.bod - usual.bod) / nullif(usual.bod_spread, 0) AS bod,
  abs(latest.turbidity - usual.turbidity) / nullif(usual.turbidity_spread, 0) AS turbidity
FROM latest
JOIN usual ON usual.station = latest.station
WHERE usual.readings >= 20
