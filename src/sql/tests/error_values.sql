INSERT INTO page_counts VALUES ('a', NULL, NULL, 1)
---- expect
error: VALUES is not supported yet; produce the records with a Kafka client instead
