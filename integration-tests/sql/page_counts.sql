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
  hits BIGINT
) WITH (
  'connector' = 'kafka',
  'topic' = 'page_counts',
  'format' = 'json'
);

INSERT INTO page_counts
SELECT page, window_start, window_end, COUNT(*) AS hits
FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(ts), INTERVAL '10' SECOND))
GROUP BY page, window_start, window_end;
