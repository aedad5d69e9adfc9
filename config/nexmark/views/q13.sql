-- Bounded side input: bids with what a file says of them.
SELECT b.auction, b.bidder, b.price, b.date_time, s.value
FROM bid b
JOIN side_input s ON b.auction % 500 = s.key
