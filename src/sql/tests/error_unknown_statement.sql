SELCT 1
---- expect
error: unknown statement 'SELCT' at line 1, column 1; did you mean 'SELECT'?
