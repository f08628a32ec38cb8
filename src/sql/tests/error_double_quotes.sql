INSERT INTO page_counts SELECT page, ts, ts, 1 FROM clicks WHERE page = "x"
---- expect
error: "x" is in double quotes at line 1, column 73; text is in single quotes, a name in backticks
