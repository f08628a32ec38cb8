INSERT INTO page_counts SELECT page, MAX(ts), MAX(ts), COUNT(*) FROM clicks GROUP BY page
---- expect
error: an aggregation without a window is not supported yet; read from TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '10' SECOND)) and add window_start, window_end to the GROUP BY
