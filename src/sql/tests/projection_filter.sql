CREATE TABLE slow_pages (
  page STRING, visitor STRING, took_s DOUBLE, verdict STRING, kib BIGINT, ts TIMESTAMP(3)
) WITH ('connector' = 'kafka', 'topic' = 'slow_pages', 'format' = 'json');
EXPLAIN INSERT INTO slow_pages
SELECT
  UPPER(page),
  COALESCE(visitor, 'nobody'),
  took_ms / 1000.0e0,
  CASE WHEN took_ms >= 800 THEN 'very slow' ELSE 'slow' END,
  CAST(bytes AS BIGINT) / 1024 + 1,
  ts
FROM requests
WHERE took_ms > 500 AND (page LIKE '/p%' OR bytes IS NULL) AND visitor IS DISTINCT FROM 'bot';
---- expect
== Streaming Graph ==
3001 Sink(slow_pages) {topic=slow_pages} -> [page STRING, visitor STRING, took_s DOUBLE, verdict STRING, kib BIGINT, ts TIMESTAMP(3)]
+- 20001 Project(upper(page@0) AS page, CASE WHEN visitor@1 IS NOT NULL THEN visitor@1 ELSE nobody END AS visitor, CAST(took_ms@2 AS Float64) / 1000 AS took_s, CASE WHEN took_ms@2 >= 800 THEN very slow ELSE slow END AS verdict, CAST(bytes@3 AS Int64) / 1024 + 1 AS kib, ts) -> [page STRING, visitor STRING, took_s DOUBLE, verdict STRING, kib BIGINT, ts TIMESTAMP(3)]
   +- 10001 Filter(took_ms@2 > 500 AND (page@0 LIKE /p% OR bytes@3 IS NULL) AND visitor@1 IS DISTINCT FROM bot) -> [page STRING, visitor STRING, took_ms BIGINT, bytes INT, status SMALLINT, retries TINYINT, ok BOOLEAN, load_avg FLOAT, ratio DOUBLE, price DECIMAL(10, 2), body BYTES, day_of DATE, time_of TIME(0), ts TIMESTAMP(3), seen TIMESTAMP_LTZ(3)]
      +- 1001 Source(requests) {topic=requests, start=group-offsets, watermark=seen@14} -> [page STRING, visitor STRING, took_ms BIGINT, bytes INT, status SMALLINT, retries TINYINT, ok BOOLEAN, load_avg FLOAT, ratio DOUBLE, price DECIMAL(10, 2), body BYTES, day_of DATE, time_of TIME(0), ts TIMESTAMP(3), seen TIMESTAMP_LTZ(3)]
