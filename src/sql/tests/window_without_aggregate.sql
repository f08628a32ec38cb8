EXPLAIN INSERT INTO page_counts (page, window_end, window_start)
SELECT page, window_end, window_start
FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(ts), INTERVAL '10' SECOND))
WHERE window_start >= TIMESTAMP '2024-01-01 00:00:00';
---- expect
== Streaming Graph ==
3001 Sink(page_counts) {topic=page_counts} -> [page STRING, window_start TIMESTAMP(3), window_end TIMESTAMP(3), views BIGINT]
+- 20002 Project(page, window_start, window_end, NULL AS views) -> [page STRING, window_start TIMESTAMP(3), window_end TIMESTAMP(3), views BIGINT]
   +- 10002 Filter(window_start@2 >= 1704067200000) -> [page STRING, ts TIMESTAMP(3), window_start TIMESTAMP(3), window_end TIMESTAMP(3), window_time TIMESTAMP(3)]
      +- 20001 Project(page, ts, CAST(CAST(ts@1 AS Int64) - ((CAST(ts@1 AS Int64) - 0) % 10000 + 10000) % 10000 AS Timestamp(ms)) AS window_start, CAST(CAST(ts@1 AS Int64) - ((CAST(ts@1 AS Int64) - 0) % 10000 + 10000) % 10000 + 10000 AS Timestamp(ms)) AS window_end, CAST(CAST(ts@1 AS Int64) - ((CAST(ts@1 AS Int64) - 0) % 10000 + 10000) % 10000 + 9999 AS Timestamp(ms)) AS window_time) -> [page STRING, ts TIMESTAMP(3), window_start TIMESTAMP(3), window_end TIMESTAMP(3), window_time TIMESTAMP(3)]
         +- 10001 Filter(ts@1 IS NOT NULL) -> [page STRING, ts TIMESTAMP(3)]
            +- 1001 Source(clicks) {topic=clicks, start=earliest-offset, watermark=ts@1 - IntervalMonthDayNano { months: 0, days: 0, nanoseconds: 5000000000 }} -> [page STRING, ts TIMESTAMP(3)]
