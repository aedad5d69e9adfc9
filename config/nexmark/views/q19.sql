-- Ten highest bids of each auction.
SELECT auction, bidder, price, channel, url, date_time, extra, place
FROM (
    SELECT *, row_number() OVER (PARTITION BY auction ORDER BY price DESC) AS place
    FROM bid
) AS ranked
WHERE place <= 10
