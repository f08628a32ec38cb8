INSERT INTO page_counts
SELECT page, ts, ts, page FROM clicks
---- expect
error: projections require unique expression names but the expression "clicks.ts" at position 1 and "clicks.ts" at position 2 have the same name. Consider aliasing ("AS") one of them.
