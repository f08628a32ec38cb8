EXPLAIN INSERT INTO page_counts
SELECT UPPER(page), window_start, window_end, COUNT(page) + 1
FROM TABLE(TUMBLE(DATA => TABLE clicks, TIMECOL => DESCRIPTOR(ts), SIZE => INTERVAL '1' MINUTE, OFFSET => INTERVAL '5' SECOND))
WHERE page LIKE '/p%' AND page <> '/p9'
GROUP BY window_end, page, window_start
HAVING COUNT(page) > 2;
---- expect
== Streaming Graph ==
3001 Sink(page_counts) {topic=page_counts} -> [page STRING, window_start TIMESTAMP(3), window_end TIMESTAMP(3), views BIGINT]
+- 20001 Project(upper(page@0) AS page, window_start, window_end, count(clicks.page)@4 + 1 AS views) -> [page STRING, window_start TIMESTAMP(3), window_end TIMESTAMP(3), views BIGINT]
   +- 10002 Filter(count(clicks.page)@4 > 2) -> [page STRING, window_start TIMESTAMP(3) NOT NULL, window_end TIMESTAMP(3) NOT NULL, window_time TIMESTAMP(3) NOT NULL, count(clicks.page) BIGINT NOT NULL]
      +- 2001 TumbleAggregate(page, 1 min) {count(clicks.page)} -> [page STRING, window_start TIMESTAMP(3) NOT NULL, window_end TIMESTAMP(3) NOT NULL, window_time TIMESTAMP(3) NOT NULL, count(clicks.page) BIGINT NOT NULL]
         +- Exchange(hash[page])
            +- 10001 Filter(page@0 LIKE /p% AND page@0 != /p9) -> [page STRING, ts TIMESTAMP(3)]
               +- 1001 Source(clicks) {topic=clicks, start=earliest-offset, watermark=ts@1 - IntervalMonthDayNano { months: 0, days: 0, nanoseconds: 5000000000 }} -> [page STRING, ts TIMESTAMP(3)]
