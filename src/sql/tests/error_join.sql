INSERT INTO page_counts SELECT c.page, c.ts, c.ts, 1 FROM clicks c JOIN requests r ON c.page = r.page
---- expect
error: a join is not supported yet at line 1, column 73
