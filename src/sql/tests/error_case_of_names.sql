INSERT INTO page_counts SELECT Page, ts, ts, 1 FROM clicks
---- expect
error: unknown column 'Page' at line 1, column 32; did you mean 'page'?
