DESCRIBE requests;
---- expect
page | STRING | true | null | null | null
visitor | VARCHAR(20) | true | null | null | null
took_ms | BIGINT | true | null | null | null
bytes | INT | true | null | null | null
status | SMALLINT | true | null | null | null
retries | TINYINT | true | null | null | null
ok | BOOLEAN | true | null | null | null
load_avg | FLOAT | true | null | null | null
ratio | DOUBLE | true | null | null | null
price | DECIMAL(10, 2) | true | null | null | null
body | BYTES | true | null | null | null
day_of | DATE | true | null | null | null
time_of | TIME(0) | true | null | null | null
ts | TIMESTAMP(3) | true | null | null | null
seen | TIMESTAMP_LTZ(3) *ROWTIME* | true | null | null | seen
