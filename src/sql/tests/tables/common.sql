-- Clicks per page and ten seconds of event time, under input that is up to five seconds out of order.
CREATE TABLE clicks (
  page STRING,
  ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH (
  'connector' = 'kafka',
  'topic' = 'clicks',
  'format' = 'json',
  'scan.startup.mode' = 'earliest-offset'
);

CREATE TABLE page_counts (
  page STRING,
  window_start TIMESTAMP(3),
  window_end TIMESTAMP(3),
  views BIGINT
) WITH (
  'connector' = 'kafka',
  'topic' = 'page_counts',
  'format' = 'json'
);

-- One column of each type.
CREATE TABLE requests (
  page STRING,
  visitor VARCHAR(20),
  took_ms BIGINT,
  bytes INT,
  status SMALLINT,
  retries TINYINT,
  ok BOOLEAN,
  load_avg FLOAT,
  ratio DOUBLE,
  price DECIMAL(10, 2),
  body BYTES,
  day_of DATE,
  time_of TIME,
  ts TIMESTAMP(3),
  seen TIMESTAMP_LTZ(3),
  WATERMARK FOR seen AS seen
) WITH (
  'connector' = 'kafka',
  'topic' = 'requests',
  'format' = 'json'
);
