INSERT INTO page_counts
SELECT page, window_start, window_end, COUNT(*)
FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(tss), INTERVAL '10' SECOND))
GROUP BY page, window_start, window_end
---- expect
error: unknown column 'tss' at line 3, column 44; did you mean 'ts'?
