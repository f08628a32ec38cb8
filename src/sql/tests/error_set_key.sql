SET 'execution.checkpointing.intervall' = '1 s'
---- expect
error: unknown property 'execution.checkpointing.intervall'; did you mean 'execution.checkpointing.interval'?
