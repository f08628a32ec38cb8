CREATE TABLE other (page STRING,
  PRIMARY KEY (page) NOT ENFORCED) WITH ('connector' = 'kafka', 'topic' = 'clicks', 'format' = 'json')
---- expect
error: PRIMARY KEY is not supported on a 'kafka' table: its topic is append-only at line 2, column 3; leave it out; upsert tables are not supported yet
