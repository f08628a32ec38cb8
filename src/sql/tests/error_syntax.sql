INSERT INTO page_counts
SELECT page, FROM clicks
---- expect
error: expected an expression, found: FROM at line 2, column 19
