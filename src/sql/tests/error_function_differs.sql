INSERT INTO page_counts SELECT REGEXP_REPLACE(page, 'a', '$0'), ts, ts, 1 FROM clicks
---- expect
error: unknown or not yet supported function 'REGEXP_REPLACE' at line 1, column 32
