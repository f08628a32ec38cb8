INSERT INTO page_counts
SELECT page, window_start, window_end, COUNT(*)
FROM TABLE(HOP(TABLE clicks, DESCRIPTOR(ts), INTERVAL '5' SECOND, INTERVAL '10' SECOND))
GROUP BY page, window_start, window_end
---- expect
error: the window function HOP is not supported yet at line 3, column 12; TUMBLE is
