INSERT INTO page_counts SELECT page, ts, ts, 1 FROM clicks
ORDER BY ts
---- expect
error: ORDER BY is not supported yet at line 2, column 10
