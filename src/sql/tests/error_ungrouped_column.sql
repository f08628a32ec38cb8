INSERT INTO page_counts
SELECT page, window_start, window_end, COUNT(*)
FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(ts), INTERVAL '10' SECOND))
GROUP BY window_start, window_end
---- expect
error: column 'page' in SELECT is neither grouped nor aggregated at line 2, column 8; add it to the GROUP BY
