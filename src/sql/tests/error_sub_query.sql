INSERT INTO page_counts SELECT page, ts, ts, 1 FROM clicks WHERE page IN (SELECT page FROM requests)
---- expect
error: a subquery in an expression is not supported yet at line 1, column 66
