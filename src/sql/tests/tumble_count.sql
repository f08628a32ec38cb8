EXPLAIN INSERT INTO page_counts
SELECT page, window_start, window_end, COUNT(*) AS views
FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(ts), INTERVAL '10' SECOND))
GROUP BY page, window_start, window_end;
---- expect
== Streaming Graph ==
3001 Sink(page_counts) {topic=page_counts} -> [page STRING, window_start TIMESTAMP(3), window_end TIMESTAMP(3), views BIGINT]
+- 20001 Project(page, window_start, window_end, count(Int64(1))@4 AS views) -> [page STRING, window_start TIMESTAMP(3), window_end TIMESTAMP(3), views BIGINT]
   +- 2001 TumbleAggregate(page, 10 s) {count(Int64(1))} -> [page STRING, window_start TIMESTAMP(3) NOT NULL, window_end TIMESTAMP(3) NOT NULL, window_time TIMESTAMP(3) NOT NULL, count(Int64(1)) BIGINT NOT NULL]
      +- Exchange(hash[page])
         +- 1001 Source(clicks) {topic=clicks, start=earliest-offset, watermark=ts@1 - IntervalMonthDayNano { months: 0, days: 0, nanoseconds: 5000000000 }} -> [page STRING, ts TIMESTAMP(3)]
