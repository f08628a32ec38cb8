INSERT INTO page_counts
SELECT page, window_start, window_end, COUNT(*)
FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(page), INTERVAL '10' SECOND))
GROUP BY page, window_start, window_end
---- expect
error: 'page' is not an event-time column at line 3, column 44; declare WATERMARK FOR it in its table
