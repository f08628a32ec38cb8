INSERT INTO page_counts SELECT page, MAX(ts), MAX(ts), COUNT(*) FROM clicks GROUP BY page
---- expect
error: projections require unique expression names but the expression "max(clicks.ts)" at position 1 and "max(clicks.ts)" at position 2 have the same name. Consider aliasing ("AS") one of them.
