CREATE TABLE other (page STRING) WITH ('connector' = 'kafka', 'topic' = 'clickz', 'format' = 'json');
CREATE TABLE pages (page STRING) WITH ('connector' = 'kafka', 'topic' = 'pages', 'format' = 'json');
INSERT INTO pages
SELECT page FROM other
---- expect
error: table 'other': unknown topic 'clickz' at line 2, column 18; did you mean 'clicks'?
