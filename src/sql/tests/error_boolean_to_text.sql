INSERT INTO page_counts SELECT CAST(ok AS STRING), ts, ts, 1 FROM requests
---- expect
error: CAST from BOOLEAN to STRING is not supported yet at line 1, column 37
