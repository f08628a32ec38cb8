CREATE TABLE computed (
  `ms` BIGINT,
  text STRING,
  ts AS CAST(text AS TIMESTAMP(3)) COMMENT 'event time',
  doubled AS ms * 2,
  WATERMARK FOR ts AS ts - INTERVAL '1' SECOND
) COMMENT 'it''s computed' WITH ('connector' = 'kafka', 'topic' = 'clicks', 'format' = 'json');
SHOW CREATE TABLE computed;
---- expect
CREATE TABLE `default_catalog`.`default_database`.`computed` (
  `ms` BIGINT,
  `text` STRING,
  `ts` AS CAST(text AS TIMESTAMP(3)) COMMENT 'event time',
  `doubled` AS ms * 2,
  WATERMARK FOR `ts` AS ts - INTERVAL '1' SECOND
)
COMMENT 'it''s computed'
WITH (
  'connector' = 'kafka',
  'topic' = 'clicks',
  'format' = 'json'
)
