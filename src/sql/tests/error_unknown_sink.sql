INSERT INTO page_count SELECT page, ts, ts, 1 FROM clicks
---- expect
error: unknown table 'page_count' at line 1, column 13; did you mean 'page_counts'?
