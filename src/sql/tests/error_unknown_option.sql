CREATE TABLE other (page STRING) WITH (
  'connector' = 'kafka', 'topik' = 'clicks', 'format' = 'json'
)
---- expect
error: unknown option 'topik' at line 2, column 26; did you mean 'topic'?
