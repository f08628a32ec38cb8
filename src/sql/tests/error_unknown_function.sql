INSERT INTO page_counts SELECT UPER(page), ts, ts, 1 FROM clicks
---- expect
error: unknown or not yet supported function 'UPER' at line 1, column 32; did you mean 'UPPER'?
