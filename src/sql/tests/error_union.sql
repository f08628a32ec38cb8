INSERT INTO page_counts SELECT page, ts, ts, 1 FROM clicks UNION ALL SELECT page, ts, ts, 1 FROM clicks
---- expect
error: UNION is not supported yet
