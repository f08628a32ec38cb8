INSERT INTO page_counts
SELECT page, ts, ts, 1
FROM clickz
---- expect
error: unknown table 'clickz' at line 3, column 6; did you mean 'clicks'?
