-- Orders of one machine are numbered by the machine, not by the step that gives them: its agent refuses a number below one
-- it has seen.
ALTER TABLE machines ADD COLUMN order_fence BIGINT NOT NULL DEFAULT 0;
UPDATE machines SET order_fence = COALESCE((SELECT MAX(t.fence) FROM agent_tasks t WHERE t.machine_id = machines.id), 0);
