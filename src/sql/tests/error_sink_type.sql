INSERT INTO page_counts
SELECT page, ts, ts, page FROM clicks
---- expect
error: column 4 of the query, 'page3', is STRING; the sink's column 'views' is BIGINT at line 2, column 22; convert it with CAST(… AS BIGINT)
