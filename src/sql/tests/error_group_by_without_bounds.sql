INSERT INTO page_counts SELECT page, window_start, window_start, COUNT(*)
FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(ts), INTERVAL '10' SECOND))
GROUP BY page, window_start
---- expect
error: GROUP BY without both window_start and window_end is not supported yet; add them to the GROUP BY
