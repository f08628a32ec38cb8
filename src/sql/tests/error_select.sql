SELECT page FROM clicks
---- expect
error: an interactive SELECT is not supported yet; write INSERT INTO a table SELECT … and read that table's topic with a consumer
