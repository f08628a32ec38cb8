-- Projection and filter: the slow requests, with what a reader of the rows wants computed.
CREATE TABLE requests (
  page STRING,
  visitor STRING,
  took_ms BIGINT,
  sent INT,
  ts TIMESTAMP(3)
) WITH (
  'connector' = 'kafka',
  'topic' = 'requests',
  'format' = 'json',
  'scan.startup.mode' = 'earliest-offset'
);

CREATE TABLE slow_pages (
  page STRING,
  visitor STRING,
  took_s DOUBLE,
  verdict STRING,
  kib BIGINT,
  ts TIMESTAMP(3)
) WITH (
  'connector' = 'kafka',
  'topic' = 'slow_pages',
  'format' = 'json'
);

INSERT INTO slow_pages
SELECT
  UPPER(page),
  COALESCE(visitor, 'nobody'),
  took_ms / 1000.0e0,
  CASE WHEN took_ms >= 800 THEN 'very slow' ELSE 'slow' END,
  CAST(sent AS BIGINT) / 1024 + 1,
  ts
FROM requests
WHERE took_ms > 500 AND (page LIKE '/p%' OR sent IS NULL) AND visitor IS DISTINCT FROM 'bot';
