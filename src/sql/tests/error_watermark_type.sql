CREATE TABLE other (page STRING, WATERMARK FOR page AS page) WITH ('connector' = 'kafka', 'topic' = 'clicks', 'format' = 'json')
---- expect
error: the event-time column 'page' is STRING at line 1, column 48; declare it as TIMESTAMP(3) or TIMESTAMP_LTZ(3)
