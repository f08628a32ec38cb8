INSERT INTO page_counts
SELECT page, ts FROM clicks
---- expect
error: the query has 2 columns, 'page_counts' takes 4 at line 2, column 1; it takes: page, window_start, window_end, views
