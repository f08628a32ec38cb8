INSERT INTO page_counts SELECT page, ts, ts, COUNT(*) OVER (ORDER BY ts) FROM clicks
---- expect
error: OVER is not supported yet at line 1, column 46
