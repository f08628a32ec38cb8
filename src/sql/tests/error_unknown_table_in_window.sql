INSERT INTO page_counts
SELECT page, window_start, window_end, COUNT(*)
FROM TABLE(TUMBLE(TABLE cliks, DESCRIPTOR(ts), INTERVAL '10' SECOND))
GROUP BY page, window_start, window_end
---- expect
error: unknown table 'cliks' at line 3, column 25; did you mean 'clicks'?
