CREATE TABLE computed (
  `ms` BIGINT,
  text STRING,
  ts AS CAST(text AS TIMESTAMP(3)) COMMENT 'event time',
  doubled AS ms * 2,
  WATERMARK FOR ts AS ts - INTERVAL '1' SECOND
) COMMENT 'it''s computed' WITH ('connector' = 'kafka', 'topic' = 'clicks', 'format' = 'json');
EXPLAIN SELECT ts, doubled FROM computed;
---- expect
== Streaming Graph ==
20001 Project(ts, doubled) -> [ts TIMESTAMP(3), doubled BIGINT]
+- 1001 Source(computed) {topic=clicks, start=group-offsets, watermark=ts@2 - IntervalMonthDayNano { months: 0, days: 0, nanoseconds: 1000000000 }} -> [ms BIGINT, text STRING, ts TIMESTAMP(3), doubled BIGINT]
