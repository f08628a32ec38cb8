EXPLAIN EXECUTE STATEMENT SET BEGIN
INSERT INTO page_counts SELECT page, ts, ts, 1 FROM clicks;
INSERT INTO page_counts SELECT page, ts, ts, took_ms FROM requests WHERE ok;
END;
---- expect
== Streaming Graph ==
3001 Sink(page_counts) {topic=page_counts} -> [page STRING, window_start TIMESTAMP(3), window_end TIMESTAMP(3), views BIGINT]
+- 20001 Project(page, ts@1 AS window_start, ts@1 AS window_end, CAST(1 AS Int64) AS views) -> [page STRING, window_start TIMESTAMP(3), window_end TIMESTAMP(3), views BIGINT]
   +- 1001 Source(clicks) {topic=clicks, start=earliest-offset, watermark=ts@1 - IntervalMonthDayNano { months: 0, days: 0, nanoseconds: 5000000000 }} -> [page STRING, ts TIMESTAMP(3)]
3002 Sink(page_counts) {topic=page_counts} -> [page STRING, window_start TIMESTAMP(3), window_end TIMESTAMP(3), views BIGINT]
+- 20002 Project(page, ts@13 AS window_start, ts@13 AS window_end, took_ms@2 AS views) -> [page STRING, window_start TIMESTAMP(3), window_end TIMESTAMP(3), views BIGINT]
   +- 10001 Filter(ok@6) -> [page STRING, visitor STRING, took_ms BIGINT, bytes INT, status SMALLINT, retries TINYINT, ok BOOLEAN, load_avg FLOAT, ratio DOUBLE, price DECIMAL(10, 2), body BYTES, day_of DATE, time_of TIME(0), ts TIMESTAMP(3), seen TIMESTAMP_LTZ(3)]
      +- 1002 Source(requests) {topic=requests, start=group-offsets, watermark=seen@14} -> [page STRING, visitor STRING, took_ms BIGINT, bytes INT, status SMALLINT, retries TINYINT, ok BOOLEAN, load_avg FLOAT, ratio DOUBLE, price DECIMAL(10, 2), body BYTES, day_of DATE, time_of TIME(0), ts TIMESTAMP(3), seen TIMESTAMP_LTZ(3)]
