EXPLAIN INSERT INTO page_counts SELECT page, ts, ts, COALESCE(1, 2) FROM clicks
---- expect
== Streaming Graph ==
3001 Sink(page_counts) {topic=page_counts} -> [page STRING, window_start TIMESTAMP(3), window_end TIMESTAMP(3), views BIGINT]
+- 20001 Project(page, ts@1 AS window_start, ts@1 AS window_end, CAST(1 AS Int64) AS views) -> [page STRING, window_start TIMESTAMP(3), window_end TIMESTAMP(3), views BIGINT]
   +- 1001 Source(clicks) {topic=clicks, start=earliest-offset, watermark=ts@1 - IntervalMonthDayNano { months: 0, days: 0, nanoseconds: 5000000000 }} -> [page STRING, ts TIMESTAMP(3)]
