CREATE TABLE other (page STRING, tags ARRAY<STRING>) WITH ('connector' = 'kafka', 'topic' = 'clicks', 'format' = 'json')
---- expect
error: type ARRAY<STRING> is not supported yet at line 1, column 39; BOOLEAN, TINYINT, SMALLINT, INT, BIGINT, FLOAT, DOUBLE, DECIMAL, CHAR, VARCHAR, STRING, BYTES, DATE, TIME, TIMESTAMP and TIMESTAMP_LTZ are
