INSERT INTO page_counts SELECT page, ts, ts, 1 FROM clicks WHERE page = 5
---- expect
error: operator = does not take STRING and INT at line 1, column 66; convert one side with CAST
