INSERT INTO page_counts SELECT page, ts, ts, 1 FROM clicks LIMIT 5
---- expect
error: LIMIT is not supported yet at line 1, column 66
