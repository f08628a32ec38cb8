INSERT INTO page_counts SELECT DISTINCT page, ts, ts, 1 FROM clicks
---- expect
error: SELECT DISTINCT is not supported yet at line 1, column 25
