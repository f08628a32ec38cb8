INSERT INTO page_counts SELECT page, window_start, window_end, COUNT(DISTINCT page)
FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(ts), INTERVAL '10' SECOND)) GROUP BY page, window_start, window_end
---- expect
error: COUNT(DISTINCT …) is not supported yet at line 1, column 64
