EXPLAIN INSERT INTO page_counts (views, page, window_start, window_end)
WITH minutes AS (
  SELECT page, window_start AS ws, window_end AS we, window_time AS wt, COUNT(*) AS n
  FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(ts), INTERVAL '1' MINUTE))
  GROUP BY page, window_start, window_end, window_time
), hours AS (
  SELECT page, wt, n FROM minutes WHERE n > 1
)
SELECT SUM(n), h.page, window_start, window_end
FROM TABLE(TUMBLE(TABLE hours, DESCRIPTOR(wt), INTERVAL '1' HOUR)) AS h
GROUP BY window_start, window_end, h.page;
---- expect
== Streaming Graph ==
3001 Sink(page_counts) {topic=page_counts} -> [page STRING, window_start TIMESTAMP(3), window_end TIMESTAMP(3), views BIGINT]
+- 20003 Project(page, window_start, window_end, sum(h.n)@4 AS views) -> [page STRING, window_start TIMESTAMP(3), window_end TIMESTAMP(3), views BIGINT]
   +- 2002 TumbleAggregate(page, 1 h) {sum(h.n)} -> [page STRING, window_start TIMESTAMP(3) NOT NULL, window_end TIMESTAMP(3) NOT NULL, window_time TIMESTAMP(3) NOT NULL, sum(h.n) BIGINT]
      +- Exchange(hash[page])
         +- 20002 Project(page, wt, n) -> [page STRING, wt TIMESTAMP(3) NOT NULL, n BIGINT NOT NULL]
            +- 10001 Filter(n@4 > 1) -> [page STRING, ws TIMESTAMP(3) NOT NULL, we TIMESTAMP(3) NOT NULL, wt TIMESTAMP(3) NOT NULL, n BIGINT NOT NULL]
               +- 20001 Project(page, window_start@1 AS ws, window_end@2 AS we, window_time@3 AS wt, count(Int64(1))@4 AS n) -> [page STRING, ws TIMESTAMP(3) NOT NULL, we TIMESTAMP(3) NOT NULL, wt TIMESTAMP(3) NOT NULL, n BIGINT NOT NULL]
                  +- 2001 TumbleAggregate(page, 1 min) {count(Int64(1))} -> [page STRING, window_start TIMESTAMP(3) NOT NULL, window_end TIMESTAMP(3) NOT NULL, window_time TIMESTAMP(3) NOT NULL, count(Int64(1)) BIGINT NOT NULL]
                     +- Exchange(hash[page])
                        +- 1001 Source(clicks) {topic=clicks, start=earliest-offset, watermark=ts@1 - IntervalMonthDayNano { months: 0, days: 0, nanoseconds: 5000000000 }} -> [page STRING, ts TIMESTAMP(3)]
