CREATE TABLE other (page STRING) WITH (
  'connector' = 'kafka',
  'topic' = 'clicks',
  'properties.bootstrap.servers' = 'kafka.example.com:9092',
  'format' = 'json'
)
---- expect
error: 'kafka.example.com:9092' is not this broker at line 4, column 3; leave 'properties.bootstrap.servers' out: jobs read this broker's topics
