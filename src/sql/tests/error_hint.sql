INSERT INTO page_counts SELECT page, ts, ts, 1
FROM clicks /*+ OPTIONS('scan.startup.mode' = 'latest-offset') */
---- expect
error: a hint is not supported yet at line 2, column 13; put the options into the table's WITH clause
