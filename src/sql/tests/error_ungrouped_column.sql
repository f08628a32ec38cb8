INSERT INTO page_counts
SELECT page, window_start, window_end, COUNT(*)
FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(ts), INTERVAL '10' SECOND))
GROUP BY window_start, window_end
---- expect
error: column in SELECT must be in GROUP BY or an aggregate function: While expanding wildcard, column "clicks.page" must appear in the GROUP BY clause or must be part of an aggregate function, currently only "window_start, window_end, count(Int64(1))" appears in the SELECT clause satisfies this requirement at line 2, column 8
