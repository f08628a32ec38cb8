INSERT INTO page_counts SELECT page, ts, ts, 1 FROM clicks;
---- expect
0123456789abcdef0123456789abcdef
