INSERT INTO page_counts
SELECT pages, ts, ts, 1
FROM clicks
---- expect
error: unknown column 'pages' at line 2, column 8; did you mean 'page'?
